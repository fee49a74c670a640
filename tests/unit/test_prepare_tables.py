"""Reading tables: what is wrong with one row of a CSV file spoils no other."""

import pytest

from finetune_trainer.prepare.problems import FileError, RowError
from finetune_trainer.prepare.readers import read_file


def found(path):
    return [
        (str(row.place), row.columns.text if isinstance(row.columns, RowError) else row.columns)
        for row in read_file(path, "f")
    ]


def csv_of(folder, content: bytes):
    path = folder / "rows.csv"
    path.write_bytes(content)
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
    ],
    ids=["Latin-1", "UTF-16", "repeated"],
)
def test_a_csv_header_that_names_no_columns_ends_the_file(tmp_path, header, problem):
    path = csv_of(tmp_path, b"\n" + header + b"\nq,a,b\n")
    [row] = read_file(path, "f")
    assert isinstance(row.columns, FileError)
    assert (str(row.place), row.columns.text) == ("f:2", problem)


def test_columns_without_a_name_may_be_several(tmp_path):
    path = csv_of(tmp_path, b"prompt,completion,,\nq,a,,\n")
    assert found(path) == [("f:2", {"prompt": "q", "completion": "a", "": ""})]
