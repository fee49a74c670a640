"""What is wrong with rows, as a sentence: the first of them, every file that breaks off, and the total."""

import pytest

from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.problems import FileError, Place, Problems, RowError


def test_problems_are_told_with_their_number():
    problems = Problems()
    for line in range(1, 31):
        problems.add(Place("s3://d/f.jsonl", line), RowError("messages", "has no turns"))
    with pytest.raises(Exception, match="30 of 40 rows are invalid") as caught:
        problems.raise_if_any(40)
    assert caught.value.message == (
        "30 of 40 rows are invalid: s3://d/f.jsonl:1: messages: has no turns;"
        " s3://d/f.jsonl:2: messages: has no turns;"
        " s3://d/f.jsonl:3: messages: has no turns; the log lists 20 of them and counts the kinds"
    )
    assert problems.kinds == {"messages: has no turns": 30}


def test_one_problem_fits_a_sentence():
    problems = Problems()
    problems.add(Place("s3://d/f.parquet", 7, unit="row "), RowError("", "not valid"))
    with pytest.raises(Exception, match="1 of 9 row") as caught:
        problems.raise_if_any(9)
    assert caught.value.message == "1 of 9 rows is invalid: s3://d/f.parquet:row 7: not valid"


def test_so_many_wrong_rows_are_allowed_but_no_broken_file():
    problems = Problems()
    problems.add(Place("s3://d/f.jsonl", 3), RowError("messages[2].role", "is 'bot'; write user"))
    problems.add(Place("s3://d/f.jsonl", 4), RowError("messages[0].role", "is 'x'; write user"))
    assert problems.kinds == {"messages[].role: is …": 2}
    problems.raise_if_any(40, allowed=2)
    assert problems.exceed(1)
    problems.add(Place("s3://d/g.jsonl.gz", 9), FileError("", "the compressed file cannot be read on: cut off"))
    with pytest.raises(StageFailure) as caught:
        problems.raise_if_any(40, allowed=10)
    assert caught.value.message == (
        "3 of 40 rows are invalid: s3://d/g.jsonl.gz:9: the compressed file cannot be read on: cut off;"
        " s3://d/f.jsonl:3: messages[2].role: is 'bot'; write user; s3://d/f.jsonl:4: messages[0].role: is 'x';"
        " write user; spec.data.maxInvalidRows allows 10, but no file that cannot be read to its end"
    )


def test_kinds_of_problems_hold_no_quoted_value():
    problems = Problems()
    for number, name in enumerate(("Sean O'Brien", "Sean"), start=1):
        problems.add(Place("f", number), RowError("label", f"is {name!r}, which no row has"))
    assert problems.kinds == {"label: is …, which no row has": 2}


def test_a_file_that_breaks_off_is_named_however_many_rows_are_wrong_before_it(capsys):
    problems = Problems()
    for line in range(1, 31):
        problems.add(Place("s3://d/f.jsonl", line), RowError("messages", "has no turns"))
    for name in ("g", "h"):
        problems.add(Place(f"s3://d/{name}.csv", 9), FileError("", "not valid CSV: unexpected end of data"))
    assert problems.first[:3] == [
        "s3://d/g.csv:9: not valid CSV: unexpected end of data",
        "s3://d/h.csv:9: not valid CSV: unexpected end of data",
        "s3://d/f.jsonl:1: messages: has no turns",
    ]
    assert capsys.readouterr().out.count('"event": "invalid-row"') == 22
    message = problems.failure(40, allowed=100).message
    assert message.startswith("32 of 40 rows are invalid: s3://d/g.csv:9: not valid CSV: unexpected end of data; ")
    assert message.endswith(
        "; the log lists 22 of them and counts the kinds; spec.data.maxInvalidRows allows 100, but no file that"
        " cannot be read to its end"
    )
