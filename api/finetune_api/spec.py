"""`spec` of a FineTuneJob: what to tune, on what, how, where, and where the result goes.

Field names are those of the field's own libraries in camelCase. Every field has a bound, a default that works and
a description; the CRD is generated from these classes (`crd.py`). Rules across fields are CEL (`rules`), so that
the API server refuses a bad object at `kubectl apply` with a sentence that names the field and the mend.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.fields import Quantity
from finetune_api.pods import ConfigMapKeyRef, PodTemplate, SecretRef
from finetune_api.uris import S3Uri

Auto = Literal["auto"]
ModuleName = Annotated[str, Field(min_length=1, max_length=253)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Model(Record):
    """The base model."""

    uri: S3Uri = Field(
        description="Prefix in S3 that holds the model: config.json, tokenizer files and *.safetensors weights."
    )
    chat_template: str = Field(
        default="",
        max_length=65536,
        description="Jinja chat template that replaces the tokenizer's own; empty keeps the tokenizer's.",
    )


class Lora(Record):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the two low-rank matrices.")
    alpha: float = Field(default=32, gt=0, le=4096, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: list[ModuleName] = Field(
        default=["all-linear"],
        min_length=1,
        max_length=64,
        description='Names of the modules that get an adapter; ["all-linear"]: every linear layer but the head.',
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732)."
    )
    modules_to_save: list[ModuleName] = Field(
        default=[],
        max_length=16,
        description="Modules trained in full beside the adapter, e.g. embed_tokens.",
    )


class Method(Record):
    """How the model is adapted."""

    rules: ClassVar = (
        Rule(
            "self.type == 'lora' || !has(self.lora)",
            "spec.method.lora belongs to type lora; remove the lora block or set spec.method.type: lora",
        ),
    )

    type: Literal["full", "lora"] = Field(
        default="lora", description="full trains every weight; lora trains low-rank adapters."
    )
    lora: Lora | None = Field(default=None, description="Settings of type lora; left out means the defaults.")


class DataSource(Record):
    """One source of rows."""

    uri: S3Uri = Field(
        description="One file, or a prefix (ending in /) whose .jsonl, .csv and .parquet files are all read."
    )


class Split(Record):
    """Shares split off the training rows, by a hash of the row: a row never moves when others are added."""

    validation: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of rows for validation; used when data.validation is empty.",
    )
    test: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of rows for test; used when data.test is empty."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the hash.")


class Data(Record):
    """Rows to train, validate and test on."""

    rules: ClassVar = (
        Rule(
            "!has(self.validation) || size(self.validation) == 0 || !has(self.split) || self.split.validation == 0.0",
            "spec.data.validation and spec.data.split.validation exclude each other; set split.validation: 0"
            " or remove the validation list",
        ),
        Rule(
            "!has(self.test) || size(self.test) == 0 || !has(self.split) || self.split.test == 0.0",
            "spec.data.test and spec.data.split.test exclude each other; set split.test: 0 or remove the test list",
        ),
    )

    format: Literal["auto", "messages", "promptCompletion"] = Field(
        default="auto",
        description="messages: a list of role/content turns; promptCompletion: columns prompt and completion;"
        " auto: told from the first row.",
    )
    train: list[DataSource] = Field(min_length=1, max_length=64, description="Sources of training rows.")
    validation: list[DataSource] = Field(default=[], max_length=64, description="Sources of validation rows.")
    test: list[DataSource] = Field(default=[], max_length=64, description="Sources of test rows.")
    split: Split | None = Field(
        default=None,
        description="Shares split off the training rows for the lists left empty; left out means 0.1 and 0.1.",
    )
    max_length: int = Field(
        default=2048,
        ge=16,
        le=1048576,
        description="Longest row in tokens; longer rows are dropped and counted.",
    )
    packing: bool = Field(
        default=True,
        description="Put several rows into one sequence of maxLength tokens; rows never see one another.",
    )


class Optimizer(Record):
    """AdamW (https://arxiv.org/abs/1711.05101)."""

    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    betas: list[Decay] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2, description="Decay of the two moment estimates."
    )
    eps: float = Field(default=1e-8, gt=0, le=1, description="Term added to the denominator.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, le=1e6, description="Gradients are clipped to this norm; 0 turns clipping off."
    )


class Training(Record):
    """The optimizer's side of the run."""

    rules: ClassVar = (
        Rule(
            "has(self.epochs) != has(self.maxSteps)",
            "set exactly one of spec.training.epochs and spec.training.maxSteps",
        ),
    )

    epochs: float | None = Field(default=None, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(default=None, ge=1, le=100_000_000, description="Optimizer steps.")
    global_batch_size: int = Field(
        default=64,
        ge=1,
        le=65536,
        description="Sequences per optimizer step over all processes: packed sequences when data.packing is on,"
        " rows when it is off. Never changed by the number of processes.",
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        default="auto", description="Sequences per forward pass and process, or auto."
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=10, description="Peak learning rate.")
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="Course of the learning rate after the warm-up."
    )
    warmup: float = Field(
        default=0.03,
        ge=0,
        le=1_000_000,
        description="Warm-up: below 1 a share of the steps, from 1 a number of steps.",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="AdamW's settings.")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Number format of the computation.")
    activation_checkpointing: Literal["auto", "on", "off"] = Field(
        default="auto", description="Recompute activations in the backward pass to save memory."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of data order, dropout and adapters.")


class Distributed(Record):
    """Nodes, processes and how the state is sharded over them."""

    num_nodes: int = Field(default=1, ge=1, le=1024, description="Pods of the training stage.")
    processes_per_node: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes per pod: one per GPU, or CPU processes when device is cpu.",
    )
    device: Literal["gpu", "cpu"] = Field(default="gpu", description="gpu uses NCCL, cpu uses gloo.")
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto", description="DeepSpeed ZeRO stage (https://arxiv.org/abs/1910.02054), or auto."
    )


class Predictions(Record):
    """Answers of the base and the tuned model to test rows, written beside the model."""

    rows: int = Field(default=0, ge=0, le=10000, description="Test rows to answer; 0 turns it off.")
    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="Longest answer in tokens.")


class Evaluation(Record):
    """When and on what the model is scored."""

    every_steps: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Evaluate on the validation rows every so many steps, and at the end; 0 only at the end.",
    )
    baseline: bool = Field(default=True, description="Also score the base model on the test rows, before training.")
    predictions: Predictions = Field(
        default=Predictions(), description="Answers of base and tuned model to test rows (predictions.jsonl)."
    )


class Checkpoint(Record):
    """Where and when the state of the run is committed."""

    uri: S3Uri = Field(description="Prefix in S3 for checkpoints, the token cache and the metrics of the run.")
    every_steps: int = Field(default=0, ge=0, le=1_000_000, description="Commit every so many steps; 0 turns it off.")
    every_minutes: float = Field(
        default=10, ge=0, le=1440, description="Commit every so many minutes; 0 turns it off."
    )
    keep_last: int = Field(default=2, ge=1, le=100, description="Newest commits that are kept.")
    keep_best: int = Field(default=1, ge=0, le=100, description="Commits of lowest validation loss that are kept.")
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: a restarted attempt goes on from the newest whole commit of this job.",
    )


class Output(Record):
    """Where the result goes."""

    uri: S3Uri = Field(description="Prefix in S3 for the result; it must not hold another job's result.")
    merge: bool = Field(default=False, description="Also write the base model with the adapter merged into it.")


class S3Storage(Record):
    """The S3 server."""

    rules: ClassVar = (
        Rule(
            "!has(self.endpoint) || self.endpoint == '' || self.endpoint.startsWith('http://') || self.endpoint.startsWith('https://')",
            "spec.storage.s3.endpoint must start with http:// or https://, or be empty for AWS",
        ),
    )

    endpoint: str = Field(default="", max_length=1024, description="URL of the S3 server; empty means AWS.")
    region: str = Field(default="us-east-1", min_length=1, max_length=64, description="Region.")
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose key `credentials` is an AWS shared credentials file; left out means the pod's own"
        " identity (podTemplate.serviceAccountName).",
    )
    ca_bundle_config_map_ref: ConfigMapKeyRef | None = Field(
        default=None, description="PEM bundle that signs the server's certificate."
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="auto: path for an own endpoint, virtual for AWS."
    )


class Cache(Record):
    """Scratch space of a pod for model, data and staged checkpoints: an emptyDir."""

    size_limit: Quantity = Field(default="200Gi", description="Most that a pod may store.")


class Storage(Record):
    """S3 and scratch space."""

    s3: S3Storage = Field(default=S3Storage(), description="The S3 server and how to reach it.")
    cache: Cache = Field(default=Cache(), description="Scratch space of each pod.")


class FineTuneJobSpec(Record):
    """Specification of a fine-tuning job."""

    rules: ClassVar = (
        Rule(
            "!self.output.merge || self.method.type == 'lora'",
            "spec.output.merge merges an adapter into the base model; it needs spec.method.type: lora",
        ),
        Rule(
            "self.distributed.device != 'cpu'"
            " || ((!has(self.podTemplate.resources.requests)"
            " || !self.podTemplate.resources.requests.exists(k, k.startsWith('nvidia.com/')))"
            " && (!has(self.podTemplate.resources.limits)"
            " || !self.podTemplate.resources.limits.exists(k, k.startsWith('nvidia.com/'))))",
            "spec.distributed.device: cpu takes no GPU; remove the nvidia.com resources from"
            " spec.podTemplate.resources or set spec.distributed.device: gpu",
        ),
        Rule(
            "self.distributed.device != 'gpu' || !has(self.podTemplate.resources.limits)"
            " || !('nvidia.com/gpu' in self.podTemplate.resources.limits)"
            " || string(self.podTemplate.resources.limits['nvidia.com/gpu'])"
            " == string(self.distributed.processesPerNode)",
            "spec.podTemplate.resources.limits['nvidia.com/gpu'] must equal spec.distributed.processesPerNode"
            " (one process per GPU)",
        ),
        Rule(
            "self.training.globalBatchSize % (self.distributed.numNodes * self.distributed.processesPerNode) == 0",
            "spec.training.globalBatchSize must be a multiple of distributed.numNodes x distributed.processesPerNode:"
            " every process takes the same share",
        ),
    )

    model: Model = Field(description="The base model.")
    objective: Literal["sft"] = Field(
        default="sft", description="sft: supervised fine-tuning, loss on the assistant's answers alone."
    )
    method: Method = Field(default=Method(), description="How the model is adapted.")
    data: Data = Field(description="Rows to train, validate and test on.")
    training: Training = Field(description="Length, batch, learning rate, precision.")
    distributed: Distributed = Field(default=Distributed(), description="Nodes, processes and sharding.")
    evaluation: Evaluation = Field(default=Evaluation(), description="When and on what the model is scored.")
    checkpoint: Checkpoint = Field(description="Where and when the state of the run is committed.")
    output: Output = Field(description="Where the result goes.")
    storage: Storage = Field(default=Storage(), description="S3 and scratch space.")
    pod_template: PodTemplate = Field(default=PodTemplate(), description="What a user may set on the pods.")
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="Failures that are retried; disruptions and stops never count."
    )
    pre_running_deadline_seconds: int = Field(
        default=3600,
        ge=1,
        le=2_592_000,
        description="Longest wait for the pods of a stage to run (scheduling, image pull); then the job fails."
        " Time in a queue does not count.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="Longest time from the start to the end of the job, without the time it was queued or suspended;"
        " then it fails with its last checkpoint committed. Left out means no limit.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315_360_000,
        description="The FineTuneJob is deleted so many seconds after its end, with its pods and their logs; what is"
        " in S3 stays. Left out means never.",
    )
    suspend: bool = Field(
        default=False,
        description="true stops the job: running pods commit a checkpoint and end; false lets it go on from there."
        " While it is suspended every field of the spec may be changed.",
    )
