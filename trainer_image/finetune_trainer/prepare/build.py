"""Building the token cache from encoded blocks: counted, stored, and in the end chosen from.

Blocks come in the order of the rows. Once there are more invalid rows than are allowed nothing is stored any more,
but all rows are still read, so that one run of the stage names all that is wrong.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec import Data
from finetune_trainer import log
from finetune_trainer.data.cache import SPLITS, CacheWriter, SplitName
from finetune_trainer.prepare.columns import own_name
from finetune_trainer.prepare.encoded_block import EncodedBlock, EncodedRows
from finetune_trainer.prepare.formats import Format
from finetune_trainer.prepare.labels import Labels
from finetune_trainer.prepare.pii.policy import PiiCounts
from finetune_trainer.prepare.problems import Place, Problems
from finetune_trainer.prepare.selection import Rows, Selection, firsts, select
from finetune_trainer.prepare.sources import LISTS, ListName
from finetune_trainer.prepare.staging import TEST_ROWS, Staging


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
    highest_token: int = 0
    unsampled: int = 0
    """Rows that no epoch reads, by the weight of their source."""
    endless: int = 0
    """Rows with an answer that no special token ends."""
    of_source: dict[int, int] = field(default_factory=dict)
    """Rows read, by the number of the source."""


class CacheBuilder:
    """Builds the caches of all splits below a folder; a context manager that closes the files."""

    def __init__(self, directory: Path, *, form: Format, labels: Labels | None, data: Data) -> None:
        self._directory = directory
        self._data = data
        self._files = ExitStack()
        self.form: Format = form
        self.labels = labels
        self.counts = Counts()
        self.pii = PiiCounts()
        self.problems = Problems(partial(own_name, data.columns))
        self.selection = Selection()

    def __enter__(self) -> "CacheBuilder":
        """Open the files."""
        cache, labelled = self._directory / "cache", self.labels is not None
        cache.mkdir(parents=True)
        test_rows = self._directory / TEST_ROWS
        self._lists: dict[ListName, Staging] = {
            split: Staging(cache, split, labelled=labelled, test_rows=test_rows if split == "test" else None)
            for split in SPLITS
        }
        self._lists["replay"] = Staging(self._scratch / "replay", "train", labelled=labelled)
        for staging in self._lists.values():
            self._files.enter_context(staging)
        if self._data.deduplicate == "near":
            from finetune_trainer.prepare.near import Sketches

            self._sketches = {name: Sketches(self._scratch / f"{name}.sketches") for name in LISTS}
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self._files.close()

    @property
    def writers(self) -> dict[SplitName, CacheWriter]:
        """What was written of each split."""
        return {split: self._lists[split].cache for split in SPLITS}

    @property
    def has_failed(self) -> bool:
        """Whether more rows are wrong than are allowed, so that no tokens are needed any more."""
        return self.problems.exceed(self._data.max_invalid_rows)

    def add(self, made: EncodedBlock) -> None:
        """Add what became of the next block. Raises StageFailure when there are too many labels."""
        counts, source = self.counts, made.block.source
        counts.read += made.read
        counts.of_source[source.number] = counts.of_source.get(source.number, 0) + made.read
        for place, error in made.problems:
            self.problems.add(place, error)
        self.pii.add(made.pii)
        for split, rows in made.too_long.items():
            counts.too_long[split] += rows
        counts.truncated += made.truncated
        counts.cut += made.cut
        counts.unsampled += made.unsampled
        counts.endless += made.endless
        counts.longest = max(counts.longest, made.longest)
        if not self.has_failed:
            for split, encoded in made.rows.items():
                self._store("replay" if source.part_of == "replay" else split, encoded)

    def choose(self) -> None:
        """Leave out duplicates, repeat rows by their weights and add those to replay, once all blocks were added."""
        known = {name: staging.known() for name, staging in self._lists.items()}
        first = firsts(np.concatenate([known[name].digests for name in LISTS]))
        if self._data.deduplicate == "near":
            first = self._near(first)
        self.selection = select(known, first, self._data)
        self._files.close()
        replay = self._lists["replay"], self.selection.rows["replay"]
        for split in SPLITS:
            further = [replay] if split == "train" and len(replay[1]) else []
            if further or not self.selection.is_all(split, len(known[split].digests)):
                self._lists[split].keep(self.selection.rows[split], further)
        shutil.rmtree(self._scratch)
        if self.labels is not None:
            self.labels.count(self._directory / "cache")

    def _near(self, first: Rows) -> Rows:
        from finetune_trainer.prepare.near import DEFAULT_THRESHOLD, group

        sketches = [self._sketches[name].read() for name in LISTS]
        return group(sketches, self._data.near_threshold or DEFAULT_THRESHOLD, first)

    def _store(self, name: ListName, rows: EncodedRows) -> None:
        self.counts.highest_token = max(self.counts.highest_token, int(rows.input_ids.max()))
        self._lists[name].append(rows, self._numbers(rows))
        if self._data.deduplicate == "near":
            self._sketches[name].append(rows.sketches)

    def _numbers(self, rows: EncodedRows) -> NDArray[np.int32] | None:
        labels = self.labels
        if labels is None:
            return None
        pairs = zip(rows.labels, rows.lines.tolist(), strict=True)
        places = ((label, Place(rows.file, line, rows.unit)) for label, line in pairs)
        return np.asarray([labels.number(label, place) for label, place in places], np.int32)

    @property
    def _scratch(self) -> Path:
        """Folder beside the result for what is no part of it."""
        return self._directory.parent / "staging"

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
        if self.selection.leaked:
            log.warning(
                "training-rows-left-out",
                rows=self.selection.leaked,
                why="they stand in validation or test",
            )
        if self.selection.duplicates:
            log.warning(
                "duplicates",
                rows=self.selection.duplicates,
                left_out=self._data.deduplicate != "none",
                hint="rows that repeat an earlier training row; see spec.data.deduplicate",
            )
