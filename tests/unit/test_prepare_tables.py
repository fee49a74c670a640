"""Reading tables: what is wrong with one row of a CSV or Parquet file spoils no other, and memory stays small."""

import datetime
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_trainer.prepare import blocks, readers
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.problems import FileError, RowError
from finetune_trainer.prepare.readers import read_file
from finetune_trainer.prepare.sources import Source

SOURCE = Source(0, "train", "s3://d/f")


def found(path):
    return [
        (str(row.place), row.columns.text if isinstance(row.columns, RowError) else row.columns)
        for row in read_file(path, "f")
    ]


def csv_of(folder, content: bytes):
    path = folder / "rows.csv"
    path.write_bytes(content)
    return path


def parquet_of(folder, table, **options):
    path = folder / "rows.parquet"
    pq.write_table(table, path, **options)
    return path


def test_a_csv_row_with_a_wrong_byte_is_told_where_it_stands_and_reading_goes_on(tmp_path):
    good = b"".join(b"q%d,a\n" % number for number in range(100))
    path = csv_of(tmp_path, b"prompt,completion\n" + good + 'q,"perché\n'.encode() + b'perch\xe9"\n' + good)
    rows = found(path)
    assert len(rows) == 201
    assert rows[100] == ("f:102", "not UTF-8 text (byte 14 of column 'completion')")
    assert rows[101] == ("f:104", {"prompt": "q0", "completion": "a"})
    assert [place for place, columns in rows if isinstance(columns, str)] == ["f:102"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"prompt,perch\xe9", "the name of column 2 is not UTF-8 text (byte 6)"),
        ("prompt,completion".encode("utf-16"), "the name of column 1 is not UTF-8 text (byte 1)"),
        (b"prompt,completion,completion", "has several columns called 'completion'; give each a name of its own"),
        (b"a@example.com,b,a@example.com", "has several columns called as column 1 is; give each a name of its own"),
    ],
    ids=["Latin-1", "UTF-16", "repeated", "none"],
)
def test_a_csv_header_that_names_no_columns_ends_the_file(tmp_path, header, problem):
    path = csv_of(tmp_path, b"\n" + header + b"\nq,a,b\n")
    [row] = read_file(path, "f")
    assert isinstance(row.columns, FileError)
    assert (str(row.place), row.columns.text) == ("f:2", problem)


def test_columns_without_a_name_may_be_several(tmp_path):
    path = csv_of(tmp_path, b"prompt,completion,,\nq,a,,\n")
    assert found(path) == [("f:2", {"prompt": "q", "completion": "a", "": ""})]


def test_times_of_a_parquet_file_are_read_to_the_microsecond(tmp_path):
    """With pandas beside it, Arrow gives values of pandas; without, as in the image, it refuses nanoseconds."""
    ns = 1_000_000_001
    columns = {
        "at": pa.array([ns, None], pa.timestamp("ns")),
        "there": pa.array([ns, ns], pa.timestamp("ns", tz="UTC")),
        "time": pa.array([ns, ns], pa.time64("ns")),
        "took": pa.array([ns, ns], pa.duration("ns")),
        "seconds": pa.array([1, 2], pa.duration("s")),
        "turns": pa.array([[{"at": ns}], None], pa.list_(pa.struct([("at", pa.timestamp("ns"))]))),
    }
    rows = [columns for _, columns in found(parquet_of(tmp_path, pa.table(columns)))]
    at = datetime.datetime(1970, 1, 1, 0, 0, 1)
    assert rows[0] == {
        "at": at,
        "there": at.replace(tzinfo=datetime.UTC),
        "time": at.time(),
        "took": datetime.timedelta(seconds=1),
        "seconds": datetime.timedelta(seconds=1),
        "turns": [{"at": at}],
    }
    kinds = [type(value) for value in (*rows[0].values(), rows[0]["turns"][0]["at"])]
    times, spans = [datetime.datetime] * 2 + [datetime.time], [datetime.timedelta] * 2
    assert kinds == [*times, *spans, list, datetime.datetime]
    assert rows[1]["at"] is None


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    3,
    [None, pa.py_buffer(b"".join(end.to_bytes(4, "little") for end in (0, 1, 2, 3))), pa.py_buffer(b"a\xe8b")],
)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([0, 2_933_000, 1], pa.date32()), "date value out of range"),
        (pa.array([0, 253_402_300_800_000_000, 1], pa.timestamp("us")), "date value out of range"),
        (NOT_UTF8, "'utf-8' codec can't decode byte 0xe8"),
    ],
)
def test_a_value_that_python_cannot_hold_spoils_its_own_row(tmp_path, column, problem):
    path = parquet_of(tmp_path, pa.table({"text": ["a", "b", "c"], "other": column}))
    first, second, third = found(path)
    assert second[0] == "f:row 2"
    assert second[1].startswith(f"column 'other' has a value that cannot be read: {problem}")
    assert [first[1]["text"], third[1]["text"]] == ["a", "c"]


def test_columns_of_a_parquet_file_with_one_name_end_it(tmp_path):
    path = parquet_of(tmp_path, pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
    [row] = read_file(path, "f")
    assert isinstance(row.columns, FileError)
    assert row.columns.text == "has several columns called 'text'; give each a name of its own"


def test_a_row_group_is_never_in_memory_whole(tmp_path):
    texts = [os.urandom(1000).hex() for _ in range(12_000)]
    path = parquet_of(tmp_path, pa.table({"text": texts}), row_group_size=len(texts))
    size = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    assert size > 20_000_000
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for _ in read_file(path, "f"):
        rows += 1
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == len(texts)
    assert most < size / 3


def test_long_rows_are_taken_together_in_small_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_PARQUET_BYTES", 10_000)
    sizes = []
    values = readers._values
    monkeypatch.setattr(readers, "_values", lambda batch: sizes.append(batch.num_rows) or values(batch))
    texts = [os.urandom(2000).hex() for _ in range(100)]
    assert [columns["text"] for _, columns in found(parquet_of(tmp_path, pa.table({"text": texts})))] == texts
    assert set(sizes) == {2}


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_block_of_a_table_ends_with_its_bytes(tmp_path, monkeypatch, name):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    texts = ["x" * 100] * 50 + ["x" * 900] * 10 + ["x"] * 600
    path = tmp_path / name
    if name == "rows.csv":
        path.write_text("\n".join(["text", *texts]))
    else:
        pq.write_table(pa.table({"messages": [[{"content": text}] for text in texts]}), path)
    found = list(cut(path, "f", SOURCE))
    assert [len(block.content) for block in found] == [10] * 5 + [2] * 5 + [512, 88]
    rows = [row for block in found for row in block.rows()]
    assert rows == list(read_file(path, "f"))
