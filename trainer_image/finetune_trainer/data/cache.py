"""The token cache: the encoded rows of one split in a few flat files that are mapped, never loaded.

    <split>.input_ids.bin     uint32, the tokens of all rows one after the other
    <split>.supervised.bin    uint8, 1 where the token is a target of the loss
    <split>.offsets.bin       int64, rows + 1 entries: row i is input_ids[offsets[i]:offsets[i + 1]]
    <split>.labels.bin        int32, the class of each row; only where rows have a label

All numbers are little-endian. The first token of a row has no predecessor that could predict it, so it is never
supervised; the writer refuses to store it otherwise, and counts of supervised tokens need no special case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

_TOKEN = np.dtype("<u4")
_FLAG = np.dtype("<u1")
_OFFSET = np.dtype("<i8")
_CLASS = np.dtype("<i4")
_PORTION_TOKENS = 1_000_000
"""That are worked on at once, whatever the size of the data."""


def cache_files(split: SplitName) -> tuple[str, str, str]:
    """Return the names of a split's files: tokens, supervised flags, offsets."""
    return f"{split}.input_ids.bin", f"{split}.supervised.bin", f"{split}.offsets.bin"


def labels_file(split: SplitName) -> str:
    """Return the name of the file of a split's classes."""
    return f"{split}.labels.bin"


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _portions(offsets: NDArray[np.int64]) -> Iterator[range]:
    """Yield ranges of rows that hold about a million tokens each, or one longer row."""
    start, rows = 0, len(offsets) - 1
    while start < rows:
        stop = int(np.searchsorted(offsets, offsets[start] + _PORTION_TOKENS, side="right")) - 1
        stop = max(stop, start + 1)
        yield range(start, stop)
        start = stop


@dataclass(frozen=True)
class TokenCache:
    """The encoded rows of one split, mapped read-only."""

    input_ids: NDArray[np.uint32]
    supervised: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    class_labels: NDArray[np.int32] | None = None
    """The class of each row, [rows]; None where rows have no label."""

    @classmethod
    def open(cls, directory: Path, split: SplitName) -> "TokenCache":
        """Map a split. Raises FileNotFoundError, or ValueError when the files do not fit together."""
        tokens, flags, offsets = (directory / name for name in cache_files(split))
        labels = directory / labels_file(split)
        classes = np.fromfile(labels, _CLASS) if labels.exists() else None
        cache = cls(_map(tokens, _TOKEN), _map(flags, _FLAG), np.fromfile(offsets, _OFFSET), classes)
        if (
            len(cache.input_ids) != len(cache.supervised)
            or cache.offsets[-1] != len(cache.input_ids)
            or (classes is not None and len(classes) != len(cache))
        ):
            raise ValueError(f"{directory}: the files of split {split} do not fit together")
        return cache

    def __len__(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def supervised_counts(self) -> NDArray[np.int64]:
        """Supervised tokens of each row."""
        counts = np.empty(len(self), np.int64)
        for rows in _portions(self.offsets):  # the sums over all tokens at once would take eight times their memory
            start, stop = self.offsets[rows.start], self.offsets[rows.stop]
            sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.supervised[start:stop], dtype=np.int64)])
            counts[rows.start : rows.stop] = np.diff(sums[self.offsets[rows.start : rows.stop + 1] - start])
            self.give_back()
        return counts

    def give_back(self) -> None:
        """Give back the memory of what was read; it is read again where it is needed."""
        for array in (self.input_ids, self.supervised):
            if isinstance(array.base, mmap):
                array.base.madvise(MADV_DONTNEED)

    def row(self, index: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return tokens and supervised flags of one row."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.input_ids[span], self.supervised[span]


class CacheWriter:
    """Appends rows to a split's files; a context manager that closes them."""

    def __init__(self, directory: Path, split: SplitName, *, labelled: bool = False) -> None:
        names = [*cache_files(split), *([labels_file(split)] if labelled else [])]
        self._files = [open(directory / name, "wb") for name in names]  # noqa: PTH123, SIM115 - closed in __exit__
        self._tokens, self._flags, self._offsets, *self._labels = self._files
        self.rows = 0
        self.tokens = 0
        self.supervised_tokens = 0
        self._offsets.write(np.zeros(1, _OFFSET).tobytes())

    def append(self, input_ids: Sequence[int], supervised: Sequence[bool], label: int | None = None) -> None:
        """Store one row, with its class where rows have one.

        Raises ValueError when tokens and flags differ in length or the first token is supervised.
        """
        lengths = np.asarray([len(input_ids)], np.int64)
        labels = None if label is None else np.asarray([label], _CLASS)
        self.append_rows(np.asarray(input_ids, _TOKEN), np.asarray(supervised, _FLAG), lengths, labels)

    def append_rows(
        self,
        input_ids: NDArray[np.uint32],
        supervised: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        labels: NDArray[np.int32] | None = None,
    ) -> None:
        """Store rows of `lengths` tokens, [R], that lie one after the other in the first two, [T].

        Raises ValueError when lengths, tokens and flags do not agree or the first token of a row is supervised.
        """
        if not int(lengths.sum()) == len(input_ids) == len(supervised):
            raise ValueError(f"rows of {lengths.sum()} tokens, {len(input_ids)} tokens, {len(supervised)} flags")
        offsets = np.cumsum(lengths, dtype=_OFFSET)
        starts = (offsets - lengths)[lengths > 0]
        if supervised[starts].any():
            raise ValueError("the first token of a row cannot be supervised")
        self._tokens.write(input_ids.astype(_TOKEN, copy=False).tobytes())
        self._flags.write(supervised.astype(_FLAG, copy=False).tobytes())
        self._offsets.write((offsets + self.tokens).tobytes())
        for file in self._labels:
            assert labels is not None  # noqa: S101 - rows have a label, or none has
            file.write(labels.astype(_CLASS, copy=False).tobytes())
        self.rows += len(lengths)
        self.tokens += len(input_ids)
        self.supervised_tokens += int(supervised.sum(dtype=np.int64))

    def copy_rows(self, cache: TokenCache, rows: NDArray[np.int64]) -> None:
        """Store rows of another cache in this order; a row may come several times."""
        lengths = cache.lengths[rows]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        for some in _portions(ends):
            chosen, sizes = rows[some.start : some.stop], lengths[some.start : some.stop]
            # Where each token stands in the other cache: counted on from the first of its row.
            shift = cache.offsets[chosen] - (ends[some.start : some.stop] - ends[some.start])
            places = np.repeat(shift, sizes) + np.arange(int(sizes.sum()))
            labels = None if cache.class_labels is None else cache.class_labels[chosen]
            self.append_rows(cache.input_ids[places], cache.supervised[places], sizes, labels)
            cache.give_back()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def renumber_classes(directory: Path, split: SplitName, new: NDArray[np.int32]) -> None:
    """Give each row of a split the class new[c] in the place of c."""
    new[classes_of(directory, split)].astype(_CLASS).tofile(directory / labels_file(split))


def classes_of(directory: Path, split: SplitName) -> NDArray[np.int32]:
    """Return the class of each row of a split whose rows have one."""
    return np.fromfile(directory / labels_file(split), _CLASS)
