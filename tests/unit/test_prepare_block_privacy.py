"""What masking personal data does to rows beside their words: calls of tools, duplicates, labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_builders import make_tokenizer

from finetune_api.spec import Data
from finetune_trainer.prepare.block_encoder import BlockEncoder, Rules
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.encoded_block import EncodedBlock
from finetune_trainer.prepare.sources import Source

MASK = {"action": "mask", "region": "IT"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer("trl/qwen2_5").save_pretrained(folder)
    return folder


def encoded(folder: Path, tokenizer: Path, rows: list[dict[str, Any] | str], *, form="promptCompletion", **data):
    """Encode rows of a test list, or the lines that they are written in, in one block."""
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    settings = Data.model_validate({"train": [{"uri": "s3://data/f"}], "pii": MASK, **data})
    (block,) = cut(path, "s3://data/rows.jsonl", Source(0, "test", "s3://data/", 1))
    made: EncodedBlock = BlockEncoder(Rules(tokenizer, form, settings, 512)).encode(block)
    return made


def call(arguments: object) -> list[dict[str, Any]]:
    function = {"name": "send", "arguments": arguments}
    return [
        {"role": "user", "content": "Send it."},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
    ]


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        ({"body": "To:\nmario@example.com"}, {"body": "To:\n<EMAIL_1>"}),
        ({"body": "IBAN\nIT60X0542811101000000123456"}, {"body": "IBAN\n<IBAN_1>"}),
        ({"card": 4111111111111111, "phone": "3471234567"}, {"card": "<CARD_NUMBER_1>", "phone": "<PHONE_1>"}),
    ],
)
@pytest.mark.parametrize("written", [json.dumps, dict], ids=["text", "object"])
def test_calls_are_masked_however_their_arguments_are_written(tmp_path, tokenizer, arguments, masked, written):
    rows = [{"messages": call(written(arguments)), "owner": "a@example.com"}]
    made = encoded(tmp_path, tokenizer, rows, form="messages")
    assert made.problems == []
    (row,) = map(json.loads, made.rows["test"].test_rows)
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == masked
    assert row["owner"].startswith("<EMAIL_")


def test_what_tools_and_the_model_answer_in_json_stays_json(tmp_path, tokenizer):
    result = {"note": "Reach him:\nmario@example.com\n+39 347 1234567\n4111111111111111"}
    turns = [
        *call({"mario@example.com": 1}),
        {"role": "tool", "content": json.dumps(result)},
        {"role": "assistant", "content": '{"card": 4111111111111111, "total": 1.50}'},
    ]
    made = encoded(tmp_path, tokenizer, [{"messages": turns}], form="messages")
    (row,) = map(json.loads, made.rows["test"].test_rows)
    _, called, answered, last = row["messages"]
    assert called["tool_calls"][0]["function"]["arguments"] == {"<EMAIL_1>": 1}
    assert json.loads(answered["content"]) == {"note": "Reach him:\n<EMAIL_1>\n<PHONE_1>\n<CARD_NUMBER_1>"}
    assert last["content"] == '{"card": "<CARD_NUMBER_1>", "total": 1.50}'


def test_test_rows_are_json_whatever_a_table_holds(tmp_path, tokenizer):
    text = '{"prompt": "How?", "completion": "So.", "score": NaN, "more": [{"most": -Infinity}], '
    text += '"phone": 393471234567.0}'
    made = encoded(tmp_path, tokenizer, [text])
    (row,) = made.rows["test"].test_rows

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(row, parse_constant=refuse) == {
        "prompt": "How?",
        "completion": "So.",
        "score": None,
        "more": [{"most": None}],
        "phone": "<PHONE_1>",
    }


@pytest.mark.parametrize(("action", "same"), [("mask", True), ("report", False)])
def test_rows_that_masking_makes_the_same_are_duplicates(tmp_path, tokenizer, action, same):
    rows = [{"prompt": f"I am {name}@example.com. How?", "completion": "Open it."} for name in ("anna", "bob")]
    pii = {**MASK, "action": action}
    made = encoded(tmp_path, tokenizer, rows, pii=pii, deduplicate="near").rows["test"]
    assert np.array_equal(*made.digests) is same
    assert np.array_equal(*made.sketches) is same


def test_a_label_is_a_name_and_stays(tmp_path, tokenizer):
    rows = [{"text": "It is anna@example.com", "label": "billing@acme.com"}, {"text": "Hi", "label": "it@acme.com"}]
    made = encoded(tmp_path, tokenizer, rows, form="label")
    assert made.rows["test"].labels == ["billing@acme.com", "it@acme.com"]
    assert (made.pii.places, made.pii.rows) == ({"email": 1}, 1)
    assert json.loads(made.rows["test"].test_rows[0]) == {"text": "It is <EMAIL_1>", "label": "billing@acme.com"}
