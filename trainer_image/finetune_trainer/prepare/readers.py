"""Readers: rows of a JSON-lines, CSV or Parquet file, one after the other, each with the place it stands at.

Memory is bounded: one line, or one batch of a Parquet file. A line that cannot be read is yielded as a `RowError`
and reading goes on, so that one run names all that is wrong; a file that cannot be read at all ends with it.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.prepare.compression import BROKEN, open_file
from finetune_trainer.prepare.problems import FileError, Place, RowError

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes; a longer line is no row but a file of another kind."""
_PARQUET_ROWS = 256


class Row(NamedTuple):
    """One row as it was read: its columns, or why it could not be read."""

    place: Place
    columns: dict[str, Any] | RowError


Reader = Callable[[Path, str], Iterator[Row]]


def read_jsonl(path: Path, name: str) -> Iterator[Row]:
    """Yield one row per non-empty line; `name` is the file's name in places."""
    with open_file(path) as file:
        yield from read_lines(file, name, 1)


def read_lines(file: BinaryIO, name: str, first: int) -> Iterator[Row]:
    """Yield one row per non-empty line of what may be a part of a file, which begins with its line `first`."""
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=first):
        if line.strip():
            yield Row(Place(name, number), _object(line))
        if len(line) == LONGEST_LINE:
            return


def _object(line: bytes) -> dict[str, Any] | RowError:
    if len(line) == LONGEST_LINE:
        return FileError("", f"the line is longer than {LONGEST_LINE} bytes; write one JSON object per line")
    try:
        value = json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError("", f"not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return RowError("", f"not valid JSON: {error.msg} at column {error.colno}; write one JSON object per line")
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        return RowError("", f"not valid JSON: {error}")
    if not isinstance(value, dict):
        return RowError("", f"is a JSON {_kind(value)}, not an object; write one JSON object per line")
    return value


def _kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return kinds[type(value)]


def read_csv(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows below the header line of a comma-separated file; quoted fields may span lines."""
    csv.field_size_limit(min(sys.maxsize, LONGEST_LINE))
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            place = Place(name, reader.line_num + 1)
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                # What follows a broken quote or a wrong byte cannot be told apart into rows any more.
                yield Row(place, FileError("", f"not valid CSV: {error}"))
                return
            if fields is None:
                return
            if header is None:
                header = fields
            elif fields:
                yield Row(place, _record(header, fields))


def _record(header: list[str], fields: list[str]) -> dict[str, Any] | RowError:
    if len(fields) != len(header):
        return RowError("", f"has {len(fields)} fields, the header has {len(header)}; quote fields that hold commas")
    return dict(zip(header, fields, strict=True))


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(Place(name, number, unit="row "), columns)
    except (pa.ArrowException, OSError) as error:
        yield Row(Place(name, number + 1, unit="row "), FileError("", f"not a readable Parquet file: {error}"))


_OF_TEXT: dict[str, Reader] = {".jsonl": read_jsonl, ".json": read_jsonl, ".csv": read_csv}
READERS: dict[str, Reader] = {
    **_OF_TEXT,
    ".parquet": read_parquet,
    **{f"{ending}{packed}": reader for ending, reader in _OF_TEXT.items() for packed in (".gz", ".zst")},
}
"""By the ending of the file's name."""


def ending_of(name: str) -> str:
    """Return the ending that says what a file is: of a compressed one the two last."""
    path = PurePosixPath(name.lower())
    return "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix


def read_file(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a file; what is behind a place where its compression is broken cannot be read."""
    last = Place(name, 0)
    try:
        for row in READERS[ending_of(path.name)](path, name):
            last = row.place
            yield row
    except BROKEN as error:
        yield broken_off(name, last.number + 1, error)


def broken_off(name: str, number: int, error: Exception) -> Row:
    """Return what stands in the place of the rows from a line on whose compression is broken."""
    return Row(Place(name, number), FileError("", f"the compressed file cannot be read on: {error}"))
