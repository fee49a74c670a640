"""Where each row of the token cache stands in the user's files, so that training can name a row.

<split>.rows.bin        int64 [rows, 2], little-endian: number of the row's source, and its line there
<split>.sources.json    the sources, as texts that the line's number is written behind: "s3://b/train.jsonl:"
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.cache import SplitName

_PAIR = np.dtype("<i8")


def _files(directory: Path, split: SplitName) -> tuple[Path, Path]:
    return directory / f"{split}.rows.bin", directory / f"{split}.sources.json"


@dataclass(frozen=True)
class Places:
    """The places of one split's rows."""

    split: SplitName
    rows: NDArray[np.int64]
    sources: list[str]

    @classmethod
    def open(cls, directory: Path, split: SplitName) -> "Places":
        """Read the places of a split. A release that wrote none leaves the rows with their numbers alone."""
        rows, sources = _files(directory, split)
        if not sources.exists():
            return cls(split, np.empty((0, 2), np.int64), [])
        return cls(split, np.fromfile(rows, _PAIR).reshape(-1, 2), json.loads(sources.read_text()))

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Return the places of rows of the token cache: file and line."""
        return [self._place(int(row)) for row in rows]

    def _place(self, row: int) -> str:
        if row >= len(self.rows):
            return f"row {row + 1} of the prepared {self.split} split"
        source, line = self.rows[row].tolist()
        return f"{self.sources[source]}{line}"


class PlaceWriter:
    """Appends the place of each row that a CacheWriter takes; a context manager that closes the files."""

    def __init__(self, directory: Path, split: SplitName) -> None:
        rows, self._sources_file = _files(directory, split)
        self._rows = rows.open("wb")
        self._sources: dict[str, int] = {}

    def append(self, source: str, line: int) -> None:
        """Store the place of the next row."""
        self.append_rows(source, np.asarray([line], np.int64))

    def append_rows(self, source: str, lines: NDArray[np.int64]) -> None:
        """Store the places of the next rows, all of one source."""
        number = self._sources.setdefault(source, len(self._sources))
        self._rows.write(np.stack([np.full_like(lines, number), lines], axis=1).astype(_PAIR).tobytes())

    def copy_rows(self, places: Places, rows: NDArray[np.int64]) -> None:
        """Store the places that other rows have, in this order."""
        numbers = [self._sources.setdefault(source, len(self._sources)) for source in places.sources]
        pairs = places.rows[rows]
        pairs[:, 0] = np.asarray(numbers, np.int64)[pairs[:, 0]]
        self._rows.write(pairs.astype(_PAIR).tobytes())

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._rows.close()
        self._sources_file.write_text(json.dumps(list(self._sources)))
