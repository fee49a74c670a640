"""Rows that are nested too deeply: wrong by themselves, whatever holds the lists and objects in one another."""

import json
from pathlib import Path

import pytest
from mask_builders import make_tokenizer

from finetune_api.spec import Data
from finetune_trainer.prepare.block_encoder import BlockEncoder, Rules
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.depth import MOST_LEVELS
from finetune_trainer.prepare.encoded_block import EncodedBlock
from finetune_trainer.prepare.sources import Source

ASKS = '{"role": "user", "content": "q"}'
SAYS = '{"role": "assistant", "content": "a"}'
CALL = '{"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": %s}}]}'
MESSAGES = f'"messages": [{ASKS}, {SAYS}]'
TOOLS = '[{"type": "function", "function": {"name": "f", "parameters": {"a": %s}}}]'


def nested(levels: int, *, as_text: bool = False) -> str:
    """Return the JSON of an object with so many levels of lists and objects, or that JSON as a text in JSON."""
    lists = levels - 1
    innermost = "[]" * (lists % 2) + "1" * (1 - lists % 2)
    value = '{"a": ' + '[{"a": ' * (lists // 2) + innermost + "}]" * (lists // 2) + "}"
    return json.dumps(value) if as_text else value


PLACES = {
    "another column": (1, lambda levels: f'{{{MESSAGES}, "note": {nested(levels)}}}'),
    "arguments": (6, lambda levels: f'{{"messages": [{ASKS}, {CALL % nested(levels)}]}}'),
    "arguments as text": (6, lambda levels: f'{{"messages": [{ASKS}, {CALL % nested(levels, as_text=True)}]}}'),
    "tools": (5, lambda levels: f'{{{MESSAGES}, "tools": {TOOLS % nested(levels)}}}'),
    "tools as text": (5, lambda levels: f'{{{MESSAGES}, "tools": {json.dumps(TOOLS % nested(levels))}}}'),
}
"""How many levels are above, and the line of a row that is nested so deeply there."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer("trl/qwen2_5").save_pretrained(folder)
    return folder


def encode(folder: Path, tokenizer: Path, line: str, *, pii: str) -> EncodedBlock:
    """Encode a row of a test list."""
    path = folder / "rows.jsonl"
    path.write_text(line + "\n")
    data = Data.model_validate(
        {"train": [{"uri": "s3://data/f"}], "pii": {"action": pii}, "deduplicate": "near", "maxLength": 8192}
    )
    (block,) = cut(path, "s3://data/rows.jsonl", Source(0, "test", "s3://data/", 1))
    return BlockEncoder(Rules(tokenizer, "messages", data, 8192)).encode(block)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("levels", [MOST_LEVELS + 1, 500, 940, 5000])
def test_a_row_that_is_nested_too_deeply_is_wrong_by_itself(place, levels, tokenizer, tmp_path):
    above, line = PLACES[place]
    made = encode(tmp_path, tokenizer, line(levels - above), pii="none")
    assert [(str(where), error.field, error.text) for where, error in made.problems] == [
        ("s3://data/rows.jsonl:1", "", "is nested too deeply; 200 lists and objects may stand in one another")
    ]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pii", ["none", "mask"])
def test_a_row_of_as_many_levels_as_may_be_is_taken(place, pii, tokenizer, tmp_path):
    above, line = PLACES[place]
    made = encode(tmp_path, tokenizer, line(MOST_LEVELS - above), pii=pii)
    assert made.problems == []
    assert len(made.rows["test"].test_rows) == 1
