"""Reading and checking rows: good files give rows, broken ones the place, the field and the problem."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.prepare import readers
from finetune_trainer.prepare.columns import as_read
from finetune_trainer.prepare.formats import (
    Completion,
    Document,
    Labelled,
    canonical,
    detect,
    other_columns,
    parse,
    to_columns,
)
from finetune_trainer.prepare.problems import FileError, RowError
from finetune_trainer.prepare.readers import read_csv, read_file, read_jsonl, read_parquet

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def read(reader, path):
    return [
        (str(row.place), row.columns if isinstance(row.columns, dict) else f"{row.columns.field}|{row.columns.text}")
        for row in (as_read(row, "messages") for row in reader(path, "s3://d/f"))
    ]


def test_jsonl_rows_and_their_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": "\xc3\xa8"}\r\n{"a": 3}')
    assert read(read_jsonl, path) == [("s3://d/f:1", {"a": 1}), ("s3://d/f:4", {"a": "è"}), ("s3://d/f:5", {"a": 3})]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": 1', "not valid JSON: Expecting ',' delimiter at column 8; write one JSON object per line"),
        (b"[", "not valid JSON: Expecting value at column 2; write one JSON object per line"),
        (b"[1]", "is a JSON array, not an object; write one JSON object per line"),
        (b"null", "is a JSON null, not an object; write one JSON object per line"),
        (b"true", "is a JSON boolean, not an object; write one JSON object per line"),
        (b'"x"', "is a JSON string, not an object; write one JSON object per line"),
        (b'{"a": "\xe8"}', "not UTF-8 text (byte 8)"),
        (b"1" * 5000, "not valid JSON: Exceeds the limit (4300 digits)"),
        (b"[" * 100_000, "is nested too deeply; 200 lists and objects"),
    ],
)
def test_jsonl_lines_that_are_no_rows(tmp_path, line, problem):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    found = read(read_jsonl, path)
    assert found[1][0] == "s3://d/f:2"
    assert found[1][1].startswith(f"|{problem}")
    assert found[2] == ("s3://d/f:3", {"a": 3})


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST_LINE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 1000)
    assert read(read_jsonl, path)[1:] == [
        ("s3://d/f:2", "|the line is longer than 100 bytes; write one JSON object per line")
    ]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=8))
def test_any_objects_survive_jsonl(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.columns for row in read_jsonl(path, "f")] == rows


@given(st.binary(max_size=200))
def test_no_bytes_break_the_text_readers(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "rows"
    path.write_bytes(content)
    for reader in (read_jsonl, read_csv, read_parquet):
        for row in reader(path, "f"):
            assert isinstance(row.columns, (dict, RowError))


def test_csv_rows_and_their_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\n"two\nlines","a, b"\n\nc,d\n', encoding="utf-8-sig")
    assert read(read_csv, path) == [
        ("s3://d/f:2", {"prompt": "two\nlines", "completion": "a, b"}),
        ("s3://d/f:5", {"prompt": "c", "completion": "d"}),
    ]


def test_csv_holds_messages_as_json(tmp_path):
    path = tmp_path / "rows.csv"
    quoted = json.dumps(GOOD).replace('"', '""')
    path.write_text(f'id,messages\n1,"{quoted}"\n2,"[oops"\n')
    first, second = read(read_csv, path)
    assert first == ("s3://d/f:2", {"id": "1", "messages": GOOD})
    assert second[1].startswith("messages|not valid JSON: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a,b\n1,2,3\n", "|has 3 fields, the header has 2; quote fields that hold commas"),
        (b"a,b\n1\n", "|has 1 fields, the header has 2; quote fields that hold commas"),
        (b'a,b\n1,"2\n', "|not valid CSV: unexpected end of data"),
        (b"a,b\n1,\xe8\n", "|not UTF-8 text (byte 1 of column 'b')"),
        (b"a,b@example.com\n1,\xe8\n", "|not UTF-8 text (byte 1 of column 2)"),
    ],
)
def test_csv_lines_that_are_no_rows(tmp_path, content, problem):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert read(read_csv, path)[0][1].startswith(problem)


def test_parquet_rows_and_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_PARQUET_ROWS", 2)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [GOOD, json.dumps(GOOD) and GOOD, GOOD], "id": [7, 8, 9]}), path)
    found = read(read_parquet, path)
    assert [place for place, _ in found] == ["s3://d/f:row 1", "s3://d/f:row 2", "s3://d/f:row 3"]
    assert found[2][1] == {"messages": GOOD, "id": 9}


def test_parquet_holds_messages_as_json_too(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [json.dumps(GOOD)]}), path)
    assert read(read_parquet, path)[0][1] == {"messages": GOOD}


def test_a_file_that_is_no_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"id,messages\n")
    [(place, problem)] = read(read_parquet, path)
    assert place == "s3://d/f:row 1"
    assert problem.startswith("|not a readable Parquet file: ")


@pytest.mark.parametrize(
    ("columns", "objective", "form"),
    [
        ({"messages": [], "prompt": "", "completion": ""}, "sft", "messages"),
        ({"prompt": "", "completion": "", "x": 1}, "sft", "promptCompletion"),
        ({"messages": [], "text": ""}, "sft", "messages"),
        ({"messages": [], "text": ""}, "pretrain", "text"),
        ({"messages": [], "label": ""}, "sft", "messages"),
        ({"messages": [], "label": ""}, "classification", "label"),
        ({"text": "", "label": ""}, "classification", "label"),
    ],
)
def test_detects_the_format(columns, objective, form):
    assert detect(columns, objective) == form


VALUES = (
    "Mario Rossi",
    "mario@example.com",
    "RSSMRA85T10A562S",
    "+39 347 1234567",
    "IT60X0542811101000000123456",
    "è",
)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ((), "none"),
        (("question", "answer_2", "topK"), "'question', 'answer_2', 'topK'"),
        (("question", *VALUES), "'question' and 6 more"),
        (VALUES, "6 whose names look like values (a CSV file begins with a line of names)"),
        (VALUES[:1], "1 whose name looks like a value (a CSV file begins with a line of names)"),
        (
            [f"c{number}" for number in range(12)],
            "'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8', 'c9' and 2 more",
        ),
        (("x" * 40, "y" * 41), f"'{'x' * 40}' and 1 more"),
    ],
)
def test_what_may_be_a_value_is_told_as_no_name(columns, found):
    with pytest.raises(RowError) as caught:
        detect(dict.fromkeys(columns, ""), "pretrain")
    assert caught.value.text == f"need 'text'; found {found}"


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ("sft", "need 'messages', or 'prompt' and 'completion'; found 'question', 'answer'"),
        ("pretrain", "need 'text'; found 'question', 'answer'"),
        ("classification", "need 'text' and 'label', or 'messages' and 'label'; found 'question', 'answer'"),
    ],
)
def test_an_unknown_format_names_what_was_found(objective, problem):
    with pytest.raises(RowError) as caught:
        detect({"question": "", "answer": ""}, objective)
    assert caught.value.text == problem


ROLES = "write system, user, assistant or tool"
NO_ANSWER = "has no assistant turn, so there is nothing to learn from"


def turns(*roles):
    return [{"role": role, "content": "x"} for role in roles]


@pytest.mark.parametrize(
    ("columns", "field", "problem"),
    [
        ({}, "messages", "is missing; format messages needs it in every row"),
        ({"messages": None}, "messages", "is missing; format messages needs it in every row"),
        ({"messages": "hi"}, "messages", "is str, not a list of turns"),
        ({"messages": []}, "messages", "has no turns"),
        ({"messages": ["hi"]}, "messages[0]", "is not an object with role and content"),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "messages[0].role",
            "is 'bot'; write system, user, assistant or tool",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role", f"is None; {ROLES}"),
        *(
            ({"messages": [{"from": value, "value": "x"}]}, "messages[0].role", f"is none of them; {ROLES}")
            for value in ("+39 347 1234567", "Sean O'Brien <sean@example.com>", "x" * 100, ["user"])
        ),
        (
            {"messages": [{"role": "user", "content": "x", "sean@example.com": "y"}]},
            "messages[0]",
            "has a field that is not known; a turn has role and content",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is NoneType, not text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content", "is list, not text"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0].content", "is empty"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
            "messages[1].content",
            "is empty",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "mood": "good"}]},
            "messages[0].mood",
            "is not known; a turn has role and content",
        ),
        ({"messages": turns("user")}, "messages", NO_ANSWER),
        (
            {"messages": turns("system", "user")},
            "messages",
            NO_ANSWER,
        ),
        (
            {"messages": turns("user", "assistant", "user")},
            "messages",
            "ends with a user turn; the last turn must be the assistant's",
        ),
        ({"messages": turns("assistant")}, "messages[0].role", "is assistant, but user must speak here"),
        (
            {"messages": turns("user", "user", "assistant")},
            "messages[1].role",
            "is user, but assistant must speak here",
        ),
        (
            {"messages": turns("user", "assistant", "system", "user", "assistant")},
            "messages[2].role",
            "is system, but user must speak here",
        ),
        ({"messages": turns("system", "assistant")}, "messages[1].role", "is assistant, but user must speak here"),
    ],
)
def test_conversations_that_are_refused(columns, field, problem):
    with pytest.raises(RowError) as caught:
        parse(columns, "messages")
    assert (caught.value.field, caught.value.text) == (field, problem)


@pytest.mark.parametrize(
    ("columns", "field", "problem"),
    [
        ({"prompt": "x"}, "completion", "is missing; format promptCompletion needs it in every row"),
        ({"prompt": "x", "completion": ""}, "completion", "is empty"),
        ({"prompt": ["x"], "completion": "y"}, "prompt", "is list, not text"),
        ({"prompt": "x", "completion": "\ud800"}, "completion", "holds half of a surrogate pair, which is no text"),
    ],
)
def test_completions_that_are_refused(columns, field, problem):
    with pytest.raises(RowError) as caught:
        parse(columns, "promptCompletion")
    assert (caught.value.field, caught.value.text) == (field, problem)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"messages": GOOD}, "is missing; format text needs it in every row"),
        ({"text": " \n"}, "is empty"),
        ({"text": 7}, "is int, not text"),
    ],
)
def test_texts_that_are_refused(columns, problem):
    with pytest.raises(RowError) as caught:
        parse(columns, "text")
    assert (caught.value.field, caught.value.text) == ("text", problem)


@pytest.mark.parametrize(
    ("columns", "field", "problem"),
    [
        ({"text": "x"}, "label", "is missing; format label needs it in every row"),
        ({"text": "x", "label": " "}, "label", "is empty"),
        ({"text": "x", "label": 0.5}, "label", "is float, not text"),
        ({"text": "x", "label": ["a"]}, "label", "is list, not text"),
        (
            {"text": "x", "label": "y" * 65},
            "label",
            "has 65 characters, at most 64 are possible; give it a short name",
        ),
        ({"label": "a"}, "text", "is missing; format label needs a text or messages, and not both, in every row"),
        (
            {"text": "x", "messages": GOOD, "label": "a"},
            "text",
            "is missing; format label needs a text or messages, and not both, in every row",
        ),
        ({"text": "", "label": "a"}, "text", "is empty"),
        ({"messages": [], "label": "a"}, "messages", "has no turns"),
        ({"messages": GOOD[1:], "label": "a"}, "messages[0].role", "is assistant, but user must speak here"),
    ],
)
def test_rows_with_labels_that_are_refused(columns, field, problem):
    with pytest.raises(RowError) as caught:
        parse(columns, "label")
    assert (caught.value.field, caught.value.text) == (field, problem)


@pytest.mark.parametrize(("value", "label"), [("spam ", "spam"), (3, "3"), (-1, "-1"), (True, "true")])
def test_labels_are_texts(value, label):
    assert parse({"text": "x", "label": value}, "label") == Labelled(Document("x"), label)


def test_a_conversation_with_a_label_may_end_with_a_question():
    columns = {"messages": GOOD[:1], "label": "greeting", "text": None, "id": 4}
    example = parse(columns, "label")
    assert to_columns(example) == {"messages": GOOD[:1], "label": "greeting"}
    assert other_columns(columns, "label") == {"id": 4}


def test_a_text_goes_back_into_columns():
    columns = {"text": "Once.", "source": "book"}
    assert to_columns(parse(columns, "text")) == {"text": "Once."}
    assert other_columns(columns, "text") == {"source": "book"}


def test_an_example_goes_back_into_columns():
    columns = {"messages": GOOD, "id": 3, "note": None}
    example = parse(columns, "messages")
    assert to_columns(example) == {"messages": GOOD}
    assert other_columns(columns, "messages") == {"id": 3, "note": None}


def test_rows_that_read_the_same_are_the_same():
    assert canonical(Completion("è ", "b")) == canonical(Completion("e\u0300", " b\n"))
    assert canonical(Completion("a", "b")) != canonical(Completion("a", "B"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b'a,b\n1,"2\n'),
        ("rows.parquet", b"id,messages\n"),
        ("rows.jsonl.gz", gzip.compress(b"a" * 100, mtime=0)[:-9]),
    ],
)
def test_what_ends_a_file_early_is_no_single_row(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    *_, last = read_file(tmp_path / name, "f")
    assert isinstance(last.columns, FileError)
