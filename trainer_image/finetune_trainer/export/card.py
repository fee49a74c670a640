"""The model card: what the result is, where it came from, how it scored, how to load it."""

import json

from finetune_api.run import Commit, Confusion, Prepared, TrainResult
from finetune_api.stage import StageInput
from finetune_api.status import DataReport, Plan, Scores
from finetune_trainer.data.schedule import schedule_of
from finetune_trainer.export.loading import how_to_load
from finetune_trainer.methods import method_of

_NAMES = {"loss": "loss", "perplexity": "perplexity", "token_accuracy": "token accuracy", "tokens": "tokens"}
_LABEL_NAMES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "rows": "rows",
}
_LARGEST_MATRIX = 20


def render(
    job: StageInput, *, prepared: Prepared, result: TrainResult, commit: Commit, merge_gap: float | None
) -> str:
    """Return the card's Markdown."""
    sections = [
        _front(job),
        f"Fine-tuned by the FineTuneJob `{job.namespace}/{job.name}` (uid `{job.uid}`)"
        f" from `{job.spec.model.uri}`.\n",
        "## Training\n",
        _table(_training(job, prepared, result.plan or prepared.plan, commit)),
        "## Data\n",
        _table(_data(job, prepared.data)),
        _scores(result),
        _confusion(result.confusion),
        how_to_load(job.spec),
        _merge(merge_gap),
    ]
    return "\n".join(section for section in sections if section)


def _front(job: StageInput) -> str:
    """Return what the hub's pages and loaders read, and the title."""
    spec = job.spec
    by_peft = method_of(spec.method).result == "adapter" and spec.method.type != "adapter"
    header = {
        "library_name": "peft" if by_peft else "transformers",
        "base_model": spec.model.uri,
        "tags": [spec.objective],
    }
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    return f"---\n{lines}\n---\n\n# {job.name}\n"


def _training(job: StageInput, prepared: Prepared, plan: Plan, commit: Commit) -> dict[str, object]:
    training = job.spec.training
    schedule = schedule_of(training, prepared.data.train.sequences)
    return {
        "method": _method(job),
        "objective": job.spec.objective,
        "steps": f"{commit.step} of {plan.total_steps}",
        "global batch": f"{schedule.sequences_per_step} sequences",
        "learning rate": f"{training.learning_rate:g}, {training.scheduler}",
        "precision": plan.precision,
        "processes": f"{plan.world_size}, ZeRO stage {plan.zero_stage}",
        "trained parameters": f"{plan.trainable_parameters:,} of {plan.total_parameters:,}",
        "seed": training.seed,
    }


def _data(job: StageInput, data: DataReport) -> dict[str, object]:
    return {
        "sources": ", ".join(f"`{source.uri}`" for source in job.spec.data.train),
        "rows": f"{data.train.rows} train, {data.validation.rows} validation, {data.test.rows} test",
        "tokens": f"{data.train.tokens:,}, of which {data.train.supervised_tokens:,} supervised",
        "dropped as too long": data.dropped_too_long,
        "digest": f"`{data.digest}`",
    }


def _method(job: StageInput) -> str:
    method = job.spec.method.spelled_out()
    blocks = {name: block for name, block in method.to_wire().items() if name != "type"}
    settings = [f"{name} {json.dumps(value)}" for block in blocks.values() for name, value in block.items()]
    return ", ".join([method.type, *settings])


def _table(values: dict[str, object]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items())]) + "\n"


def _scores(result: TrainResult) -> str:
    evaluation = result.evaluation
    scored = {name: scores for name, scores in (("base", evaluation.base), ("tuned", evaluation.tuned)) if scores}
    if not scored:
        return ""
    names = _NAMES if evaluation.tuned is None or evaluation.tuned.rows is None else _LABEL_NAMES
    rows = [f"| {name} | {_line(scores, names)} |" for name, scores in scored.items()]
    table = [f"| model | {' | '.join(names.values())} |", f"|---{'|---' * len(names)}|", *rows]
    return "## Scores on the test rows\n\n" + "\n".join(table) + "\n"


def _line(scores: Scores, names: dict[str, str]) -> str:
    values = [getattr(scores, name) for name in names]
    digits = [2 if name == "perplexity" else 4 for name in names]
    return " | ".join(
        f"{value:.{places}f}" if isinstance(value, float) else str(value)
        for value, places in zip(values, digits, strict=True)
    )


def _confusion(confusion: Confusion | None) -> str:
    """Return which label was taken for which, where that fits a page."""
    if confusion is None or len(confusion.labels) > _LARGEST_MATRIX:
        return ""
    labels = [f"`{label}`" for label in confusion.labels]
    head = [f"| true label, predicted as | {' | '.join(labels)} |", f"|---{'|---' * len(labels)}|"]
    rows = [f"| {label} | {' | '.join(map(str, row))} |" for label, row in zip(labels, confusion.rows, strict=True)]
    return "## Labels on the test rows\n\n" + "\n".join([*head, *rows]) + "\n"


def _merge(divergence: float | None) -> str:
    if divergence is None:
        return ""
    return (
        "## Merged model\n\nLoaded anew, the merged model differs from base and adapter by"
        f" {max(divergence, 0.0):.2g} nats per token (KL divergence): the rounding of the merged weights.\n"
    )
