"""Readers: rows of a JSON-lines, CSV or Parquet file, one after the other, each with the place it stands at.

Memory is bounded: one line, or one batch of a Parquet file and the page of each column that it stands on. A row that
cannot be read is yielded as a `RowError` and reading goes on, so that one run names all that is wrong; a file that
cannot be read on ends with a `FileError`.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.prepare.compression import BROKEN, open_file
from finetune_trainer.prepare.depth import too_deep
from finetune_trainer.prepare.problems import FileError, Place, RowError, called

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes; a longer line is no row but a file of another kind."""
_PARQUET_ROWS = 256
_PARQUET_BYTES = 1024 * 1024
"""Bytes of a column that are read at once; rows that are taken together have about as many."""


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
    value = _json(line)
    if not isinstance(value, dict | RowError):
        return RowError("", f"is a JSON {_kind(value)}, not an object; write one JSON object per line")
    return value


def _json(line: bytes) -> Any:
    """Return the value of a line, or what is wrong with it."""
    try:
        return json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return RowError("", f"not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return RowError("", f"not valid JSON: {error.msg} at column {error.colno}; write one JSON object per line")
    except RecursionError:
        return too_deep()
    except ValueError as error:  # a number of thousands of digits
        return RowError("", f"not valid JSON: {error}")


def _kind(value: Any) -> str:
    kinds = {list: "array", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return kinds[type(value)]


def read_csv(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows below the header line of a comma-separated file; quoted fields may span lines."""
    csv.field_size_limit(min(sys.maxsize, LONGEST_LINE))
    # A wrong byte becomes half of a surrogate pair, which no byte of UTF-8 does: so it spoils its own row alone.
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header: list[str] | None = None
        for place, fields in _csv_lines(file, name):
            if isinstance(fields, FileError):
                yield Row(place, fields)
            elif header is not None:
                yield Row(place, _record(header, fields))
            elif error := _wrong_header(fields):
                yield Row(place, error)
                return
            else:
                header = fields


def _csv_lines(file: TextIO, name: str) -> Iterator[tuple[Place, list[str] | FileError]]:
    """Yield the fields of each record that has any, and in the end what is wrong with what cannot be read."""
    reader = csv.reader(file, strict=True)
    while True:
        place = Place(name, reader.line_num + 1)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            # What follows a broken quote cannot be told apart into rows any more.
            yield place, FileError("", f"not valid CSV: {error}")
            return
        if fields is None:
            return
        if fields:
            yield place, fields


def _wrong_header(header: list[str]) -> FileError | None:
    """Return what is wrong with a header."""
    for number, column in enumerate(header, start=1):
        if byte := _wrong_byte(column):
            return FileError("", f"the name of column {number} is not UTF-8 text (byte {byte})")
    return _repeated(header)


def _repeated(names: Sequence[str]) -> FileError | None:
    """Return what is wrong with the names of columns, of which the last one would stand for all that are called so.

    Columns without a name are what a spreadsheet leaves behind its last one.
    """
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice is None:
        return None
    name = called(twice, names.index(twice) + 1)
    as_which = name if name == repr(twice) else f"as column {name} is"
    return FileError("", f"has several columns called {as_which}; give each a name of its own")


def _record(header: list[str], fields: list[str]) -> dict[str, Any] | RowError:
    if len(fields) != len(header):
        return RowError("", f"has {len(fields)} fields, the header has {len(header)}; quote fields that hold commas")
    for number, (column, text) in enumerate(zip(header, fields, strict=True), start=1):
        if byte := _wrong_byte(text):
            return RowError("", f"not UTF-8 text (byte {byte} of column {called(column, number)})")
    return dict(zip(header, fields, strict=True))


def _wrong_byte(text: str) -> int | None:
    """Return the number, from 1, of the first byte of a text that is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return len(text[: error.start].encode()) + 1
    return None


def read_parquet(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file; times are cut to microseconds."""
    number = 0
    try:
        # As it is by itself, Arrow would read all of a row group before its first row: most files have one alone.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BYTES) as file:
            if error := _repeated(file.schema_arrow.names):
                yield Row(Place(name, 1, unit="row "), error)
                return
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
                for columns in _values(_in_microseconds(batch)):
                    number += 1
                    yield Row(Place(name, number, unit="row "), columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Row(Place(name, number + 1, unit="row "), FileError("", f"not a readable Parquet file: {error}"))


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Return how many rows are taken together: fewer where they are long."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    size: int = sum(group.total_byte_size for group in groups)
    rows: int = metadata.num_rows
    return max(1, min(_PARQUET_ROWS, _PARQUET_BYTES * rows // max(1, size)))


def _in_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch [R] without nanoseconds, which Python has no type for."""
    columns = [column.cast(_coarser(column.type), safe=False) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _coarser(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", tz=kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_coarser(field.type)) for field in kind])
    return pa.time64("us") if pa.types.is_time64(kind) else kind


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | RowError]:
    """Return the rows of a batch [R], in the place of one with a value that Python cannot hold what is wrong."""
    try:
        rows: list[dict[str, Any] | RowError] = batch.to_pylist()
    except (ValueError, OverflowError):  # no UTF-8; a year beyond 9999
        rows = [_value(batch.slice(number, 1)) for number in range(batch.num_rows)]
    return rows


def _value(row: pa.RecordBatch) -> dict[str, Any] | RowError:
    """Return the row of a batch [1]."""
    columns = {}
    for number, (name, column) in enumerate(zip(row.schema.names, row.columns, strict=True), start=1):
        try:
            columns[name] = column[0].as_py()
        except (ValueError, OverflowError) as error:
            return RowError("", f"column {called(name, number)} has a value that cannot be read: {error}")
    return columns


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
