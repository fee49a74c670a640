"""The encoded rows of one list until it is known which of them are used, and what is remembered of each in memory.

That is 21 bytes a row (29 of a row to replay), and as much again while rows are compared: ten million rows take less
than half a gigabyte.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.cache import CacheWriter, SplitName, TokenCache
from finetune_trainer.data.places import Places, PlaceWriter
from finetune_trainer.prepare.encoded_block import EncodedRows
from finetune_trainer.prepare.selection import Known, Rows

TEST_ROWS = "test.jsonl"


class Staging:
    """Rows of one list in the files of a split; a context manager that closes them."""

    def __init__(self, directory: Path, split: SplitName, *, labelled: bool, test_rows: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._split: SplitName = split
        self._labelled = labelled
        self._test_rows = test_rows
        self._files = ExitStack()
        self.cache = self._files.enter_context(CacheWriter(directory, split, labelled=labelled))
        self._places = self._files.enter_context(PlaceWriter(directory, split))
        self._lines: TextIO | None = None
        if test_rows is not None:
            self._lines = self._files.enter_context(test_rows.open("w", encoding="utf-8", errors="surrogatepass"))
        self._parts: list[tuple[NDArray[Any], ...]] = []

    def __enter__(self) -> Self:
        """Return the staging."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        self._files.close()

    def append(self, rows: EncodedRows, labels: NDArray[np.int32] | None) -> None:
        """Store rows, with the numbers of their labels, [R]."""
        self.cache.append_rows(rows.input_ids, rows.supervised, rows.lengths, labels)
        self._places.append_rows(f"{rows.file}:{rows.unit}", np.repeat(rows.lines, rows.pieces))
        if self._lines is not None:
            self._lines.writelines(f"{line}\n" for line in rows.test_rows)
        self._parts.append((rows.digests, rows.copies, rows.pieces, rows.samples))

    def known(self) -> Known:
        """Return what is remembered of the rows."""
        if not self._parts:
            none = np.empty(0, np.uint64)
            return Known(none.reshape(0, 2), none.astype(np.uint8), none)
        digests, copies, _, samples = self._joined()
        return Known(digests, copies, samples)

    def keep(self, rows: Rows, further: Iterable[tuple["Staging", Rows]] = ()) -> None:
        """Make the files anew from these rows, in this order, and from rows of other stagings behind them."""
        self._files.close()
        new = self._directory / "kept"
        parts = [(self, rows), *further]
        with Staging(new, self._split, labelled=self._labelled) as kept:
            for staging, chosen in parts:
                pieces = staging._expand(chosen)
                kept.cache.copy_rows(TokenCache.open(staging._directory, staging._split), pieces)
                kept._places.copy_rows(Places.open(staging._directory, staging._split), pieces)
        for path in new.iterdir():
            path.replace(self._directory / path.name)
        new.rmdir()
        self.cache = kept.cache
        if self._test_rows is not None:
            _keep_lines(self._test_rows, rows)

    def _expand(self, rows: Rows) -> Rows:
        """Return the rows of the cache that rows of the list became."""
        if not self._parts:
            return rows
        _, _, pieces, _ = self._joined()
        if (pieces == 1).all():
            return rows
        starts, counts = np.cumsum(pieces) - pieces, pieces[rows]
        shift = starts[rows] - (np.cumsum(counts) - counts)
        return np.asarray(np.repeat(shift, counts) + np.arange(int(counts.sum())), np.int64)

    def _joined(self) -> tuple[NDArray[Any], ...]:
        if len(self._parts) > 1:
            self._parts = [tuple(np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))]
        return self._parts[0]


def _keep_lines(path: Path, rows: Rows) -> None:
    """Keep these lines of a file, which are in order."""
    wanted = iter(rows.tolist())
    following = next(wanted, None)
    partial = path.with_suffix(".kept")
    with path.open("rb") as lines, partial.open("wb") as kept:
        for number, line in enumerate(lines):
            if number == following:
                kept.write(line)
                following = next(wanted, None)
    partial.replace(path)
