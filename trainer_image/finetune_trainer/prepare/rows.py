"""The rows of a job: those of another run that are the same, or read, checked, split, encoded and chosen from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from finetune_api.run import Classes, FileEntry, ReusableRows
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import DataReport
from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.prepare.block_encoder import Rules
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.data_card import CARD_TEXT, write_card
from finetune_trainer.prepare.data_warnings import tell_again
from finetune_trainer.prepare.formats import Format
from finetune_trainer.prepare.labels import Labels
from finetune_trainer.prepare.lists import RowLists
from finetune_trainer.prepare.model_shape import ModelShape
from finetune_trainer.prepare.pool import encoding, in_order, processes_for
from finetune_trainer.prepare.prompts import encode_prompts
from finetune_trainer.prepare.report import check_caches, data_digest, report
from finetune_trainer.prepare.reuse import ReusableCache, key_of, reusable
from finetune_trainer.storage import Store


@dataclass(frozen=True)
class RowsInput:
    """What the rows of a job are made from."""

    spec: FineTuneJobSpec
    store: Store
    tokenizer: Any
    """It is saved in the folder `tokenizer` of the result."""
    shape: ModelShape
    result: Path

    @property
    def row_limit(self) -> int:
        """Most tokens of a row."""
        longest = self.spec.data.max_length
        return min(longest, self.shape.max_positions or longest)


class PreparedRows:
    """Rows that lie in the folder of the result, and what there is to say about them."""

    def __init__(self, cache: ReusableCache, data: DataReport, classes: Classes | None, *, is_new: bool) -> None:
        self._cache = cache
        self._data = data
        self.classes = classes
        self._is_new = is_new

    @property
    def validation_rows(self) -> int:
        """Rows to validate with."""
        return self._data.validation.rows

    def report(self, sequences: int, prefix: S3Location, *, warnings: Sequence[str]) -> DataReport:
        """Return the report; an epoch has so many sequences, and the rows are uploaded to `prefix`.

        `warnings` are this run's; those of the rows go before them.
        """
        train = self._data.train.model_copy(update={"sequences": sequences})
        told = [*self._data.warnings, *warnings]
        card = prefix.child(CARD_TEXT).uri
        return self._data.model_copy(update={"train": train, "warnings": told, "card_uri": card})

    def offer(self, writer: str, files: list[FileEntry], prefix: S3Location) -> None:
        """Tell other runs of these rows, now that they are uploaded."""
        if self._is_new:
            rows = ReusableRows(
                writer=writer,
                prefix=prefix.key,
                files=reusable(files, prefix),
                data=self._data,
                classes=self.classes,
            )
            self._cache.offer(rows)


def prepare_rows(given: RowsInput) -> PreparedRows:
    """Make the rows of a job in the folder of the result. Raises StageFailure with all that is wrong with them."""
    spec, shape = given.spec, given.shape
    lists = RowLists(given.store, spec.data, given.result.parent / "rows")
    key = key_of(
        spec,
        lists.files,
        tokenizer=given.result / "tokenizer",
        row_limit=given.row_limit,
        vocabulary=shape.vocabulary,
    )
    cache = ReusableCache(given.store, spec, key)
    fetched = given.result.parent / "fetched"
    if (found := cache.fetch(fetched)) is not None:
        for path in fetched.iterdir():
            path.replace(given.result / path.name)
        _check_prompts(given, found.data.format)
        tell_again(found.data.warnings)
        return PreparedRows(cache, found.data, found.classes, is_new=False)
    return _encode(given, lists, cache)


def _encode(given: RowsInput, lists: RowLists, cache: ReusableCache) -> PreparedRows:
    spec, data = given.spec, given.spec.data
    form = lists.format(spec.objective)
    log.info("format", format=form)
    _check_prompts(given, form)
    labels = Labels(data.labels) if form == "label" else None
    rules = Rules(given.result / "tokenizer", form, data, given.row_limit)
    with CacheBuilder(given.result, form=form, labels=labels, data=data) as builder:
        _read(lists, rules, builder)
    check_caches(builder, data, given.shape)
    folder = given.result / "cache"
    classes = labels.settle(folder, pad_token_id=given.tokenizer.pad_token_id) if labels else None
    digest = data_digest(folder)
    write_card(given.result, spec, builder, lists=lists, digest=digest)
    return PreparedRows(cache, report(builder, digest=digest), classes, is_new=True)


def _read(lists: RowLists, rules: Rules, builder: CacheBuilder) -> None:
    wanted = (replace(block, wanted=not builder.has_failed) for block in lists.blocks())
    with encoding(rules, processes_for(lists.size)) as submit:
        for made in in_order(submit, wanted):
            builder.add(made)
    if not builder.has_failed:
        builder.choose()


def _check_prompts(given: RowsInput, form: str) -> None:
    encode_prompts(
        given.tokenizer, cast(Format, form), given.spec.evaluation, max_positions=given.shape.max_positions
    )
