"""Building the token cache: every row is read, checked, assigned to a split, encoded and appended.

One pass, in batches, so that memory does not grow with the data. Once there are more invalid rows than are allowed
nothing is encoded any more, but all rows are still read, so that one run of the stage names all that is wrong.

The lists for validation and test are read first: a training row that occurs in one of them word for word is left
out of training and counted, because a model scored on rows it has learned by heart tells nothing.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_api.spec import Data
from finetune_trainer import log
from finetune_trainer.data.cache import SPLITS, CacheWriter, SplitName
from finetune_trainer.data.places import PlaceWriter
from finetune_trainer.prepare.columns import own_name
from finetune_trainer.prepare.encode import Encoded, Encoder, cut
from finetune_trainer.prepare.formats import (
    Example,
    Format,
    Labelled,
    canonical,
    other_columns,
    parse,
    to_columns,
)
from finetune_trainer.prepare.labels import Labels
from finetune_trainer.prepare.pii.policy import Privacy
from finetune_trainer.prepare.problems import Place, Problems, RowError
from finetune_trainer.prepare.readers import Row
from finetune_trainer.prepare.split import assign, shares_of

_BATCH = 512
"""Rows that are encoded at once."""


@dataclass(frozen=True)
class _Checked:
    place: Place
    split: SplitName
    example: Example
    columns: dict[str, Any]


@dataclass
class Counts:
    """What happened to the rows that were read."""

    read: int = 0
    too_long: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    truncated: int = 0
    cut: int = 0
    """Documents that became several rows."""
    longest: int = 0
    """Tokens of the longest row, kept or not."""
    in_held_out: int = 0
    """Training rows left out because they stand in a validation or test list."""
    highest_token: int = 0


class CacheBuilder:
    """Builds the caches of all splits below a folder; a context manager that closes the files."""

    def __init__(
        self,
        directory: Path,
        encoder: Encoder,
        *,
        form: Format,
        labels: Labels | None,
        data: Data,
        row_limit: int,
    ) -> None:
        self._directory = directory
        self._encoder = encoder
        self._truncation = data.truncation
        self._max_invalid_rows = data.max_invalid_rows
        self.form: Format = form
        self._shares = shares_of(data)
        self.privacy = Privacy(data.pii)
        self._row_limit = row_limit
        self._held_out: set[bytes] = set()
        self._files = ExitStack()
        self.writers: dict[SplitName, CacheWriter] = {}
        self.labels = labels
        self.counts = Counts()
        self.problems = Problems(partial(own_name, data.columns))

    def __enter__(self) -> "CacheBuilder":
        """Open the files."""
        cache = self._directory / "cache"
        cache.mkdir(parents=True)
        labelled = self.labels is not None
        self.writers = {
            split: self._files.enter_context(CacheWriter(cache, split, labelled=labelled)) for split in SPLITS
        }
        self._places = {split: self._files.enter_context(PlaceWriter(cache, split)) for split in SPLITS}
        path = self._directory / "test.jsonl"
        self._test_rows = self._files.enter_context(path.open("w", encoding="utf-8", errors="surrogatepass"))
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self._files.close()

    def add(self, rows: Iterable[Row], split: SplitName, *, given: bool) -> None:
        """Add the rows of one list; `given` says that it is a list of its own, from which nothing is split off."""
        checked = self._check(rows, split, given=given)
        while batch := list(islice(checked, _BATCH)):
            if not self.problems.exceed(self._max_invalid_rows):
                self._store(batch)

    def _check(self, rows: Iterable[Row], split: SplitName, *, given: bool) -> Iterator[_Checked]:
        for row in rows:
            self.counts.read += 1
            try:
                if isinstance(row.columns, RowError):
                    raise row.columns
                example = parse(row.columns, self.form)
                if self.labels is not None and isinstance(example, Labelled):
                    self.labels.require_known(example.label)
            except RowError as error:
                self.problems.add(row.place, error)
                continue
            normal = canonical(example)
            if given:
                self._held_out.add(sha256(normal).digest())
            elif sha256(normal).digest() in self._held_out:
                self.counts.in_held_out += 1
                continue
            columns = self.privacy.apply(row.columns)
            if columns is None:
                continue
            if columns is not row.columns:
                example = parse(columns, self.form)
            # By the row as it was read: where it goes does not depend on what is done about personal data.
            yield _Checked(row.place, split if given else assign(normal, self._shares), example, columns)

    def _store(self, batch: list[_Checked]) -> None:
        for row, encoded in zip(batch, self._encoder.encode([row.example for row in batch]), strict=True):
            if isinstance(encoded, RowError):
                self.problems.add(row.place, encoded)
            elif self.labels is None and not any(encoded.supervised[1:]):
                self.problems.add(row.place, RowError("messages", "the chat template leaves no token of the answer"))
            else:
                self._append(row, encoded)

    def _append(self, row: _Checked, encoded: Encoded) -> None:
        self.counts.longest = max(self.counts.longest, len(encoded.input_ids))
        pieces = self._fit(row, encoded)
        if not pieces:
            self.counts.too_long[row.split] += 1
            return
        self.counts.highest_token = max(self.counts.highest_token, *encoded.input_ids)
        for piece in pieces:
            self.writers[row.split].append(piece.input_ids, [False, *piece.supervised[1:]], self._number(row))
            self._places[row.split].append(f"{row.place.file}:{row.place.unit}", row.place.number)
        if row.split == "test":
            columns = {**other_columns(row.columns, self.form), **to_columns(row.example)}
            self._test_rows.write(json.dumps(columns, ensure_ascii=False, default=str) + "\n")

    def _fit(self, row: _Checked, encoded: Encoded) -> list[Encoded]:
        """Return the rows of at most `row_limit` tokens that a row becomes; none when it is left out."""
        if len(encoded.input_ids) <= self._row_limit:
            return [encoded]
        if self.form == "text":
            self.counts.cut += 1
            return cut(encoded, self._row_limit)
        shorter = None
        if self._truncation == "keepAnswer":
            shorter = self._encoder.shorten(row.example, self._row_limit)
        elif self._truncation == "end":
            shorter = Encoded(encoded.input_ids[: self._row_limit], encoded.supervised[: self._row_limit])
        if shorter is None or (self.labels is None and not any(shorter.supervised[1:])):
            return []
        self.counts.truncated += 1
        return [shorter]

    def _number(self, row: _Checked) -> int | None:
        if self.labels is None or not isinstance(row.example, Labelled):
            return None
        return self.labels.number(row.example.label, row.split, row.place)

    def log_counts(self) -> None:
        """Log what was kept and what was left out."""
        for split, writer in self.writers.items():
            log.info(
                "split-encoded",
                split=split,
                rows=writer.rows,
                tokens=writer.tokens,
                supervised_tokens=writer.supervised_tokens,
                dropped_too_long=self.counts.too_long[split],
            )
        if self.counts.in_held_out:
            log.warning(
                "training-rows-left-out",
                rows=self.counts.in_held_out,
                why="they stand word for word in data.validation or data.test",
            )
