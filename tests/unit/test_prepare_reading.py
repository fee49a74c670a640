"""Reading rows: compressed files, columns under other names, turns of other shapes, calls of tools."""

import gzip
import json
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.spec import Columns
from finetune_trainer.prepare.columns import as_read, named, own_name
from finetune_trainer.prepare.compression import open_file
from finetune_trainer.prepare.conversation import Conversation
from finetune_trainer.prepare.formats import canonical, detect, parse, to_columns
from finetune_trainer.prepare.problems import Place, Problems, RowError
from finetune_trainer.prepare.readers import Row, ending_of, read_file

ROWS = [{"prompt": f"question {number}", "completion": "answer"} for number in range(3000)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def frames(content: bytes) -> bytes:
    """Two frames one after the other, as programs that compress on several cores write them."""
    half = len(content) // 2
    return zstandard.compress(content[:half]) + zstandard.compress(content[half:])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("rows.jsonl", JSONL),
        ("rows.jsonl.gz", gzip.compress(JSONL)),
        ("rows.JSONL.GZ", gzip.compress(JSONL)),
        ("rows.jsonl.zst", zstandard.compress(JSONL)),
        ("rows.jsonl.zst", frames(JSONL)),
    ],
)
def test_compressed_rows_are_the_rows(tmp_path, name, packed):
    path = written(tmp_path / name.lower(), packed)
    rows = list(read_file(path, "s3://d/rows"))
    assert [row.columns for row in rows] == ROWS
    assert str(rows[-1].place) == "s3://d/rows:3000"


@pytest.mark.parametrize(("name", "pack"), [("rows.csv.gz", gzip.compress), ("rows.csv.zst", zstandard.compress)])
def test_compressed_csv(tmp_path, name, pack):
    path = written(tmp_path / name, pack(b'prompt,completion\n"two\nlines",a\nq,b\n'))
    assert [(row.place.number, row.columns["completion"]) for row in read_file(path, "f")] == [(2, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("name", "packed"), [("rows.jsonl.gz", gzip.compress(JSONL)), ("rows.jsonl.zst", zstandard.compress(JSONL))]
)
@pytest.mark.parametrize("damage", ["cut", "no archive"])
def test_a_broken_archive_is_told_and_no_row_is_lost_in_silence(tmp_path, name, packed, damage):
    content = packed[: len(packed) - 9] if damage == "cut" else b"{}\n" * 9
    *rows, last = read_file(written(tmp_path / name, content), "f")
    assert isinstance(last.columns, RowError)
    assert "the compressed file cannot be read on" in last.columns.text
    assert last.place.number == len(rows) + 1
    assert [row.columns for row in rows] == ROWS[: len(rows)]


@given(st.binary(max_size=20_000), st.integers(1, 5000))
def test_a_stream_is_its_content_however_it_is_read(tmp_path_factory, content, size):
    path = written(tmp_path_factory.mktemp("zst") / "x.zst", frames(content))
    with open_file(path) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a/b.jsonl", ".jsonl"), ("b.CSV.gz", ".csv.gz"), ("b.parquet", ".parquet"), ("b.gz", ".gz"), ("b", "")],
)
def test_endings(name, ending):
    assert ending_of(name) == ending


def renamed(columns, **names):
    [row] = named([Row(Place("f", 1), columns)], Columns(**names))
    return row.columns


def decoded(columns, form):
    return as_read(Row(Place("f", 1), columns), form).columns


def test_columns_get_the_names_of_the_format_and_others_stay():
    assert renamed({"q": "a", "a": "b", "id": 1}, prompt="q", completion="a") == {
        "prompt": "a",
        "completion": "b",
        "id": 1,
    }
    swapped = renamed({"prompt": "x", "completion": "y"}, prompt="completion", completion="prompt")
    assert swapped == {"prompt": "y", "completion": "x"}
    assert renamed({"text": "t"}) == {"text": "t"}


def test_no_other_column_stands_in_for_the_one_that_was_named():
    assert renamed({"prompt": "not this one", "completion": "b"}, prompt="question") == {"completion": "b"}


def test_rows_are_told_of_under_their_own_names():
    columns = Columns(messages="dialog", prompt="question")
    fields = ("messages[2].content", "messages", "prompt", "completion", "tools[0].function.name", "")
    assert [own_name(columns, field) for field in fields] == [
        *("dialog[2].content", "dialog", "question", "completion", "tools[0].function.name", "")
    ]
    problems = Problems(partial(own_name, columns))
    problems.add(Place("f", 1), RowError("messages[0].role", "is 'x'"))
    assert problems.first == ["f:1: dialog[0].role: is 'x'"]
    with pytest.raises(RowError, match="need 'dialog', or 'question' and 'completion'; found 'dialogue'"):
        detect({"dialogue": []}, "sft", partial(own_name, columns))


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        ("promptCompletion", {"prompt": "a", "completion": "b", "messages": "three", "tools": "hammer"}),
        ("text", {"text": "a", "messages": "three"}),
        ("label", {"text": "a", "label": "b", "tools": "hammer"}),
    ],
)
def test_columns_of_another_format_are_left_as_they_are(form, columns):
    assert decoded(columns, form) == columns


@pytest.mark.parametrize("form", ["messages", "label"])
def test_turns_as_json_text_are_decoded(form):
    assert decoded({"messages": '[{"role": "user"}]'}, form) == {"messages": [{"role": "user"}]}
    error = decoded({"messages": "[{"}, form)
    assert isinstance(error, RowError)
    assert (error.field, "not valid JSON" in error.text) == ("messages", True)


def test_a_row_that_cannot_be_read_stays_what_is_wrong_with_it():
    wrong = RowError("", "is a JSON null")
    assert decoded(wrong, "messages") is wrong


CALL = {"type": "function", "function": {"name": "price", "arguments": {"item": "tea"}}}
TOOLS = [{"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}}]
TALK = [
    {"role": "user", "content": "What does tea cost?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "price", "content": "3 EUR"},
    {"role": "assistant", "content": "Three euros."},
]


def test_calls_of_tools_are_part_of_a_conversation():
    example = parse({"messages": TALK, "tools": TOOLS}, "messages")
    assert isinstance(example, Conversation)
    assert [turn.role for turn in example.turns] == ["user", "assistant", "tool", "assistant"]
    assert example.tools == tuple(TOOLS)
    assert parse(to_columns(example), "messages") == example
    assert canonical(example) != canonical(parse({"messages": TALK}, "messages"))


@pytest.mark.parametrize(
    ("turns", "field", "text"),
    [
        ([TALK[0], TALK[1], TALK[0], TALK[3]], "messages[2].role", "is user, but tool must speak here"),
        ([TALK[0], TALK[2], TALK[3]], "messages[1].role", "is tool, but assistant must speak here"),
        ([{**TALK[0], "tool_calls": [CALL]}, TALK[3]], "messages[0].tool_calls", "stands in a user turn"),
        ([TALK[0], {**TALK[1], "tool_calls": "price"}, TALK[2]], "messages[1].tool_calls", "not a list of calls"),
        ([{"from": "robot", "value": "x"}], "messages[0].role", "is 'robot'; write system"),
        ([{"from": ["human"], "value": "x"}], "messages[0].role", "is none of them; write system"),
        ([TALK[0], TALK[1], {**TALK[2], "name": 5}], "messages[2].name", "is int, not text"),
    ],
)
def test_what_is_wrong_with_turns(turns, field, text):
    with pytest.raises(RowError) as caught:
        parse({"messages": turns}, "messages")
    assert caught.value.field == field
    assert text in caught.value.text


def talk(**call):
    return [
        TALK[0],
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "price", **call}}]},
    ]


@pytest.mark.parametrize("arguments", [{"item": "tea"}, '{"item": "tea"}', ' {"item":\n"tea"} '])
def test_arguments_as_json_text_are_the_object(arguments):
    """As the API of OpenAI sends them; most templates would write a text as JSON once more."""
    example = parse({"messages": talk(arguments=arguments)}, "messages")
    assert example == parse({"messages": talk(arguments={"item": "tea"})}, "messages")
    assert example.turns[1].extra["tool_calls"][0]["function"]["arguments"] == {"item": "tea"}
    assert parse(to_columns(example), "messages") == example


def test_a_call_may_have_no_arguments_and_a_result_no_text():
    turns = [*talk(), {"role": "tool", "content": None}, {"role": "assistant", "content": "Done.", "tool_calls": []}]
    example = parse({"messages": turns, "tools": []}, "messages")
    assert [turn.content for turn in example.turns] == ["What does tea cost?", "", "", "Done."]
    assert example.turns[1].extra["tool_calls"][0]["function"]["arguments"] == {}
    assert example.turns[3].extra == {}
    assert example.tools == ()


@pytest.mark.parametrize(
    ("columns", "field", "text"),
    [
        ({"messages": talk(arguments="{oops")}, "messages[1].tool_calls[0].function.arguments", "not valid JSON: "),
        (
            {"messages": talk(arguments="[1]")},
            "messages[1].tool_calls[0].function.arguments",
            "is list, not an object",
        ),
        ({"messages": talk(name="")}, "messages[1].tool_calls[0].function.name", "is missing"),
        (
            {"messages": [TALK[0], {"role": "assistant", "tool_calls": [{"name": "price"}]}]},
            "messages[1].tool_calls[0].function",
            "is missing; write an object with the name of the function",
        ),
        ({"messages": TALK, "tools": {"name": "price"}}, "tools", "is dict, not a list of tools"),
        ({"messages": TALK, "tools": ["price"]}, "tools[0]", "is not an object with type and function"),
        (
            {"messages": talk(arguments={"item": "\ud800"})},
            "messages[1].tool_calls[0].function.arguments",
            "holds half of a surrogate pair, which is no text",
        ),
    ],
)
def test_what_is_wrong_with_tools(columns, field, text):
    with pytest.raises(RowError) as caught:
        parse(columns, "messages")
    assert caught.value.field == field
    assert caught.value.text.startswith(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
KEYS = st.sampled_from(["role", "content", "from", "value", "tool_calls", "tool_call_id", "name"])
CALLS = st.lists(
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})}), max_size=2
)
ROLE = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt"])
TURN = st.dictionaries(KEYS, JSON | ROLE | CALLS, max_size=5)


@given(st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4) | JSON}, optional={"tools": JSON | CALLS}))
@settings(max_examples=100, deadline=None)
def test_any_row_is_a_conversation_or_wrong(columns):
    example = None
    with suppress(RowError):
        example = parse(columns, "messages")
    if example is not None:
        assert parse(to_columns(example), "messages") == example
        assert canonical(example)


def test_turns_of_another_shape():
    shared = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    example = parse({"messages": shared}, "messages")
    assert [turn.to_column() for turn in example.turns] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
