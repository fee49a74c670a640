"""Readers: rows of a JSON-lines, CSV or Parquet file, one after the other, each with the place it stands at.

Memory is bounded: one line, or one batch of a Parquet file. A line that cannot be read is yielded as a `RowError`
and reading goes on, so that one run names all that is wrong; a file that cannot be read at all ends with it.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.prepare.problems import Place, RowError

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
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if line.strip():
                yield Row(Place(name, number), _object(line))
            if len(line) == LONGEST_LINE:
                return


def _object(line: bytes) -> dict[str, Any] | RowError:
    if len(line) == LONGEST_LINE:
        return RowError("", f"the line is longer than {LONGEST_LINE} bytes; write one JSON object per line")
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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            place = Place(name, reader.line_num + 1)
            try:
                fields = next(reader, None)
            except (csv.Error, UnicodeDecodeError) as error:
                # What follows a broken quote or a wrong byte cannot be told apart into rows any more.
                yield Row(place, RowError("", f"not valid CSV: {error}"))
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
    return _decode_messages(dict(zip(header, fields, strict=True)))


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(Place(name, number, unit="row "), _decode_messages(columns))
    except (pa.ArrowException, OSError) as error:
        yield Row(Place(name, number + 1, unit="row "), RowError("", f"not a readable Parquet file: {error}"))


def _decode_messages(columns: dict[str, Any]) -> dict[str, Any] | RowError:
    """Decode a column of turns that these formats can only hold as JSON text."""
    text = columns.get("messages")
    if not isinstance(text, str):
        return columns
    try:
        return {**columns, "messages": json.loads(text)}
    except (ValueError, RecursionError) as error:
        return RowError("messages", f"not valid JSON: {error}; write a JSON list of turns")


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
"""By the ending of the file's name."""
