"""The verdict over the built caches, and the report that goes to the job's status."""

from hashlib import sha256
from pathlib import Path

from finetune_api.spec import Data
from finetune_api.status import DataReport, InvalidCount, PiiCount, SplitReport
from finetune_trainer.data.cache import SPLITS, SplitName, cache_files, labels_file
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.data_warnings import fewer_rows_to_replay, no_turn_end, tell
from finetune_trainer.prepare.labels import Labels
from finetune_trainer.prepare.model_files import invalid_model
from finetune_trainer.prepare.model_shape import ModelShape
from finetune_trainer.prepare.problems import Problems, invalid_data
from finetune_trainer.storage.digest import sha256_of_file

_KINDS, _KIND_CHARACTERS = 5, 80
"""Of invalid rows, in the status: the last word of a pod has little room."""


def check_caches(builder: CacheBuilder, data: Data, shape: ModelShape) -> None:
    """Raise StageFailure when rows are invalid, nothing is left to train on, or the model lacks their tokens."""
    builder.log_counts()
    counts = builder.counts
    builder.problems.raise_if_any(counts.read, allowed=data.max_invalid_rows)
    if not builder.writers["train"].rows:
        raise invalid_data(_nothing_left(builder, data, shape))
    if builder.labels is not None:
        _check_labels(builder, builder.labels)
    if counts.highest_token >= shape.vocabulary:
        raise invalid_model(
            f"the tokenizer yields token {counts.highest_token}, but the model has {shape.vocabulary} embeddings;"
            " tokenizer and weights in spec.model.uri do not belong together"
        )


def _check_labels(builder: CacheBuilder, labels: Labels) -> None:
    unknown = Problems(builder.problems.name_of)
    for place, error in labels.problems():
        unknown.add(place, error)
    unknown.raise_if_any(builder.counts.read)
    labels.require_classes()


def _nothing_left(builder: CacheBuilder, data: Data, shape: ModelShape) -> str:
    counts = builder.counts
    if counts.too_long["train"]:
        limit = f"spec.data.maxLength {data.max_length} tokens"
        mend = "raise it"
        if shape.max_positions and shape.max_positions < data.max_length:
            limit = f"the model's {shape.max_positions} positions"
            mend = "shorten the rows"
        return (
            f"every training row ({counts.too_long['train']}) is longer than {limit}"
            f" (the longest row has {counts.longest} tokens); {mend}"
        )
    held = {split: writer.rows for split, writer in builder.writers.items()}
    return (
        f"no training rows are left of {counts.read}: {held['validation']} went to validation, {held['test']} to"
        f" test, {builder.selection.leaked} stand in those too, {builder.problems.total} are wrong,"
        f" {builder.pii.dropped} hold personal data; add rows, lower spec.data.split or set"
        " spec.data.pii.action: mask"
    )


def report(builder: CacheBuilder, *, digest: str) -> DataReport:
    """Return the report, as if every row were a sequence of its own, and log the warnings in it."""
    splits = {split: _split_report(builder, split) for split in SPLITS}
    train, pii, labels = splits["train"], builder.pii, builder.labels
    return DataReport(
        format=builder.form,
        train=train,
        validation=splits["validation"],
        test=splits["test"],
        dropped_too_long=sum(builder.counts.too_long.values()),
        dropped_invalid=builder.problems.total,
        invalid=[
            InvalidCount(kind=kind[:_KIND_CHARACTERS], rows=rows)
            for kind, rows in builder.problems.kinds.most_common(_KINDS)
        ],
        truncated=builder.counts.truncated,
        cut_documents=builder.counts.cut,
        duplicates=builder.selection.duplicates,
        leaked=builder.selection.leaked,
        replayed=len(builder.selection.rows["replay"]),
        dropped_pii=pii.dropped,
        pii_rows=pii.rows,
        pii=[PiiCount(kind=kind, places=places) for kind, places in sorted(pii.places.items())],
        num_classes=len(labels.order()) if labels else None,
        classes=labels.report() if labels else [],
        supervised_share=round(train.supervised_tokens / train.tokens, 4),
        padding_share=0.0,  # batches are concatenated rows; there is nothing to pad
        warnings=tell(no_turn_end(builder.counts.endless), fewer_rows_to_replay(builder.selection.replay_missing)),
        digest=digest,
    )


def _split_report(builder: CacheBuilder, split: SplitName) -> SplitReport:
    writer = builder.writers[split]
    return SplitReport(
        rows=writer.rows, tokens=writer.tokens, supervised_tokens=writer.supervised_tokens, sequences=writer.rows
    )


def data_digest(cache: Path) -> str:
    """Return the digest of the prepared rows: that of the cache files' digests, whoever wrote them."""
    names = [name for split in SPLITS for name in cache_files(split)]
    names += [name for name in map(labels_file, SPLITS) if (cache / name).exists()]
    return sha256("\n".join(f"{sha256_of_file(cache / name)} {name}" for name in names).encode()).hexdigest()
