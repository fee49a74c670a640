"""`status` of a FineTuneJob: truthful, derived anew at every reconcile, never from the last event."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Record
from finetune_api.reasons import ConditionType, Phase, Reason
from finetune_api.spec.evaluation import BestMetric


class Condition(Record):
    """One condition, as in every Kubernetes API."""

    type: ConditionType = Field(description="What is told.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Reason = Field(description="Why, in one word.")
    message: str = Field(default="", max_length=4096, description="Why, in one sentence.")
    last_transition_time: datetime = Field(description="When status last changed.")
    observed_generation: int | None = Field(default=None, description="Generation of the spec it was derived from.")


class Restarts(Record):
    """How often a stage was started anew."""

    total: int = Field(default=0, ge=0, description="All restarts.")
    counted: int = Field(default=0, ge=0, description="Those that count against backoffLimit.")
    prepare: int = Field(default=0, ge=0, description="Those of the prepare stage.")
    export: int = Field(default=0, ge=0, description="Those of the export stage.")
    out_of_memory: int = Field(
        default=0,
        ge=0,
        description="Those of attempts that ran out of memory: each took a plan that needs less than the one before.",
    )


class Plan(Record):
    """What `auto` became and what the run needs."""

    zero_stage: int = Field(description="DeepSpeed ZeRO stage.")
    world_size: int = Field(description="Processes over all nodes.")
    micro_batch_size: int = Field(description="Sequences per forward pass and process.")
    gradient_accumulation_steps: int = Field(description="Forward passes per optimizer step and process.")
    activation_checkpointing: bool = Field(description="Whether activations are recomputed.")
    activation_checkpointing_every: int = Field(
        default=1, description="Those of every so many-th layer, where activations are recomputed."
    )
    offload_optimizer: bool = Field(
        default=False, description="Whether the optimizer's state is kept in the host's memory."
    )
    attention: str = Field(max_length=32, description="Attention backend.")
    precision: str = Field(max_length=32, description="Number format of the computation.")
    total_steps: int = Field(description="Optimizer steps of the whole run.")
    total_parameters: int = Field(description="Parameters of the model, adapters included.")
    trainable_parameters: int = Field(description="Parameters that are trained.")
    estimated_bytes_per_device: int = Field(description="Memory one process is expected to need, in bytes.")


class SplitReport(Record):
    """One split after preparation."""

    rows: int = Field(default=0, description="Rows kept.")
    tokens: int = Field(default=0, description="Tokens.")
    supervised_tokens: int = Field(default=0, description="Tokens with loss.")
    sequences: int = Field(default=0, description="Sequences after packing.")


class PiiCount(Record):
    """Personal data of one kind."""

    kind: str = Field(default="", description="Kind, as in spec.data.pii.kinds.")
    places: int = Field(default=0, description="Places in the rows.")


class ClassReport(Record):
    """Rows of one label."""

    label: str = Field(default="", description="The label.")
    train: int = Field(default=0, description="Training rows.")
    validation: int = Field(default=0, description="Validation rows.")
    test: int = Field(default=0, description="Test rows.")


class InvalidCount(Record):
    """Wrong rows of one kind."""

    kind: str = Field(default="", description="Field and problem, without what differs from row to row.")
    rows: int = Field(default=0, description="Rows left out for it.")


WarningText = Annotated[str, Field(max_length=512)]


class DataReport(Record):
    """The data after preparation."""

    format: str = Field(description="Format that was read.")
    train: SplitReport = Field(description="Training rows.")
    validation: SplitReport = Field(description="Validation rows.")
    test: SplitReport = Field(description="Test rows.")
    dropped_too_long: int = Field(default=0, description="Rows left out because they are longer than maxLength.")
    dropped_invalid: int = Field(default=0, description="Rows left out because they are wrong; see maxInvalidRows.")
    invalid: list[InvalidCount] = Field(
        default=[], description="Rows left out because they are wrong, by kind; the five commonest."
    )
    truncated: int = Field(default=0, description="Rows longer than maxLength that were shortened; see truncation.")
    cut_documents: int = Field(
        default=0, description="Documents of format text that are longer than maxLength: each became several rows."
    )
    duplicates: int = Field(
        default=0, description="Training rows that repeat an earlier one; left out unless deduplicate is none."
    )
    leaked: int = Field(default=0, description="Training rows left out because they stand in validation or test.")
    replayed: int = Field(default=0, description="General rows among the training rows; see replay.")
    dropped_pii: int = Field(default=0, description="Rows left out for their personal data.")
    pii_rows: int = Field(default=0, description="Rows in which personal data was found.")
    pii: list[PiiCount] = Field(default=[], description="Personal data that was found, by kind.")
    num_classes: int | None = Field(default=None, description="Labels that are told apart.")
    classes: list[ClassReport] = Field(
        default=[], description="Rows by label; of many labels, those with the most training rows."
    )
    supervised_share: float = Field(default=0.0, description="Share of training tokens with loss.")
    padding_share: float = Field(default=0.0, description="Share of padding in the training batches.")
    digest: str = Field(description="SHA-256 over the prepared rows.")
    warnings: list[WarningText] = Field(
        default=[],
        max_length=10,
        description="What you should know of these rows and what is made of them, and how to mend it.",
    )
    card_uri: str = Field(default="", description="The data card: what the rows are and what was left out.")


class Progress(Record):
    """Where training is."""

    attempt: int | None = Field(default=None, description="Attempt that reported it; filled in by the operator.")
    step: int = Field(default=0, description="Optimizer steps done.")
    total_steps: int = Field(default=0, description="Optimizer steps of the whole run.")
    epoch: float = Field(default=0.0, description="Passes over the data done.")
    percent: int = Field(default=0, description="Share of the steps done, in percent.")
    stopped_early: bool | None = Field(
        default=None, description="True: evaluation.earlyStopping ended the training before totalSteps."
    )
    percent_text: str = Field(
        default_factory=lambda data: f"{data['percent']}%", description="percent, for people: 41%."
    )
    step_text: str = Field(
        default_factory=lambda data: f"{data['step']}/{data['total_steps']}",
        description="step and totalSteps, for people: 120/540.",
    )
    loss: float | None = Field(default=None, description="Training loss of the newest logged step.")
    eval_loss: float | None = Field(default=None, description="Newest validation loss.")
    best_eval_loss: float | None = Field(default=None, description="Validation loss of the best checkpoint.")
    eval_accuracy: float | None = Field(default=None, description="Newest share of validation rows labelled right.")
    eval_f1: float | None = Field(default=None, description="Newest F1 (macro) of the labels of the validation rows.")
    learning_rate: float | None = Field(default=None, description="Learning rate.")
    grad_norm: float | None = Field(default=None, description="Gradient norm before clipping.")
    tokens_per_second: float | None = Field(default=None, description="Tokens per second over all processes.")
    mfu: float | None = Field(
        default=None,
        description="Model FLOPs utilisation: the operations that the model cannot do without, as a share of what its"
        " GPUs can do in bf16; left out where that is not known.",
    )
    data_wait_share: float | None = Field(
        default=None, description="Share of the time in which rank 0 waited until its batches were there."
    )
    peak_bytes_per_device: int | None = Field(
        default=None,
        description="Most memory that rank 0 of the attempt has taken, in bytes; compare with"
        " plan.estimatedBytesPerDevice.",
    )
    median_step_seconds: float | None = Field(
        default=None,
        description="Median seconds of the newest steps; without a sign of life for 20 of them it hangs.",
    )
    estimated_remaining_seconds: int | None = Field(default=None, description="Seconds left.")
    eta: str | None = Field(default=None, description="Time left, for people: 1h05m.")
    last_update_time: datetime | None = Field(default=None, description="When the trainer last reported.")


class Validation(Record):
    """Scores on the validation rows, as far as they tell which checkpoint is best."""

    eval_loss: float | None = Field(default=None, description="Validation loss at that step.")
    eval_accuracy: float | None = Field(default=None, description="Share of validation rows labelled right then.")
    eval_f1: float | None = Field(default=None, description="F1 (macro) of the labels of the validation rows then.")

    @property
    def scores(self) -> dict[str, float | None]:
        """These scores alone, by the names that they have in every record of a step."""
        return {name: getattr(self, name) for name in Validation.model_fields}

    def merit(self, metric: BestMetric) -> float | None:
        """Return how good it is by a metric: more is better; None: it was not scored so."""
        if metric == "loss":
            return None if self.eval_loss is None else -self.eval_loss
        return self.eval_accuracy if metric == "accuracy" else self.eval_f1


class CheckpointRef(Validation):
    """A committed checkpoint."""

    uri: str = Field(description="The commit object.")
    step: int = Field(description="Optimizer step.")
    time: datetime = Field(description="When it was committed.")
    size_bytes: int = Field(description="Bytes of all its objects.")


class Scores(Record):
    """Scores on rows that were not trained on: those of tokens, or those of labels."""

    loss: float = Field(
        description="Mean cross-entropy: per supervised token, or per row of a class, weighted as in training."
    )
    perplexity: float | None = Field(default=None, description="exp(loss); of tokens.")
    token_accuracy: float | None = Field(default=None, description="Share of supervised tokens predicted right.")
    tokens: int | None = Field(default=None, description="Supervised tokens scored.")
    rows: int | None = Field(default=None, description="Rows whose label was predicted.")
    accuracy: float | None = Field(default=None, description="Share of rows whose label was predicted right.")
    precision_macro: float | None = Field(
        default=None, description="Share of right ones among the rows given a label, mean over the labels."
    )
    recall_macro: float | None = Field(
        default=None, description="Share of a label's rows that were found, mean over the labels."
    )
    f1_macro: float | None = Field(
        default=None, description="Harmonic mean of precision and recall of a label, mean over the labels."
    )
    f1_micro: float | None = Field(
        default=None, description="The same over all rows at once; with one label a row it equals the accuracy."
    )


class EvaluationResult(Record):
    """Scores before and after training."""

    base: Scores | None = Field(default=None, description="The base model.")
    tuned: Scores | None = Field(default=None, description="The tuned model.")


class OutputResult(Record):
    """What was written to spec.output.uri."""

    uri: str = Field(description="Prefix of the result.")
    adapter_uri: str | None = Field(default=None, description="The adapter (method lora).")
    merged_uri: str | None = Field(default=None, description="The whole model: trained in full, or merged.")
    predictions_uri: str | None = Field(default=None, description="Answers of base and tuned model.")
    merge_gap: float | None = Field(
        default=None,
        description="How far the merged model is from base and adapter, on rows of the job: KL divergence in nats per"
        " token, or per row of a classifier. Rounding leaves some.",
    )
    step: int = Field(description="Optimizer step of the exported weights.")
    digest: str = Field(description="SHA-256 of the manifest that lists every file.")


class Usage(Record):
    """What the training pods took, from the moment a node holds a pod to the pod's end."""

    node_seconds: int = Field(default=0, ge=0, description="Seconds of all training pods together.")
    gpu_seconds: int = Field(default=0, ge=0, description="The same, times the GPUs of a pod.")
    wasted_seconds: int = Field(
        default=0, ge=0, description="Part of nodeSeconds whose work was lost with an attempt and done again."
    )
    cost: float | None = Field(default=None, description="gpuSeconds at the price the operator is told.")
    currency: str | None = Field(default=None, description="Currency of the cost.")
    as_of: datetime | None = Field(default=None, description="Up to when it is counted.")


class FineTuneJobStatus(Record):
    """Observed state of a fine-tuning job."""

    phase: Phase = Field(default=Phase.PENDING, description="Where the job is.")
    reason: Reason | None = Field(default=None, description="Why, in one word; see the documentation's list.")
    message: str | None = Field(default=None, max_length=4096, description="Why, in one sentence, and what to do.")
    conditions: list[Condition] = Field(default=[], description="Conditions by type.")
    observed_generation: int | None = Field(default=None, description="Generation of the spec this was derived from.")
    start_time: datetime | None = Field(default=None, description="When the operator took the job up.")
    completion_time: datetime | None = Field(default=None, description="When the job ended.")
    phase_time: datetime | None = Field(default=None, description="When phase last changed.")
    active_since: datetime | None = Field(
        default=None,
        description="startTime, moved on by all time spent Queued or Suspended: where activeDeadlineSeconds begins.",
    )
    stage: Literal["prepare", "train", "export"] = Field(default="prepare", description="Stage the job is in.")
    run_id: str | None = Field(
        default=None,
        description="Name of the run below checkpoint.uri; another one once a changed spec began it anew.",
    )
    run_digest: str | None = Field(default=None, description="Digests of the fields that define the run.")
    attempt: int = Field(default=0, ge=0, description="Attempt of the training stage; it only grows.")
    nodes: int | None = Field(default=None, description="Pods of the training stage.")
    restarts: Restarts = Field(default=Restarts(), description="New attempts so far.")
    plan: Plan | None = Field(default=None, description="What auto became.")
    data: DataReport | None = Field(default=None, description="The data after preparation.")
    progress: Progress | None = Field(default=None, description="Where training is.")
    last_checkpoint: CheckpointRef | None = Field(default=None, description="Newest commit.")
    best_checkpoint: CheckpointRef | None = Field(default=None, description="Best commit by evaluation.bestMetric.")
    evaluation: EvaluationResult | None = Field(default=None, description="Scores before and after.")
    output: OutputResult | None = Field(default=None, description="What was written.")
    usage: Usage = Field(default=Usage(), description="What the training pods took.")
