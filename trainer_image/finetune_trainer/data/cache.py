"""The token cache: the encoded rows of one split in a few flat files that are mapped, never loaded.

    <split>.input_ids.bin     uint32, the tokens of all rows one after the other
    <split>.supervised.bin    uint8, 1 where the token is a target of the loss
    <split>.offsets.bin       int64, rows + 1 entries: row i is input_ids[offsets[i]:offsets[i + 1]]
    <split>.labels.bin        int32, the class of each row; only where rows have a label

All numbers are little-endian. The first token of a row has no predecessor that could predict it, so it is never
supervised; the writer refuses to store it otherwise, and counts of supervised tokens need no special case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.supervised, dtype=np.int64)])
        return np.diff(sums[self.offsets])

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
        if len(input_ids) != len(supervised):
            raise ValueError(f"{len(input_ids)} tokens but {len(supervised)} flags")
        if supervised and supervised[0]:
            raise ValueError("the first token of a row cannot be supervised")
        self._tokens.write(np.asarray(input_ids, _TOKEN).tobytes())
        self._flags.write(np.asarray(supervised, _FLAG).tobytes())
        self.rows += 1
        self.tokens += len(input_ids)
        self.supervised_tokens += sum(supervised)
        self._offsets.write(np.asarray([self.tokens], _OFFSET).tobytes())
        for file in self._labels:
            file.write(np.asarray([label], _CLASS).tobytes())

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
    path = directory / labels_file(split)
    new[np.fromfile(path, _CLASS)].astype(_CLASS).tofile(path)
