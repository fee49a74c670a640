"""What becomes of the rows of a block: which of them are the same, and what is kept of those for the test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mask_builders import make_tokenizer
from transformers import AutoTokenizer

from finetune_api.spec import Data
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.export.questions import Question, read_questions
from finetune_trainer.prepare.block_encoder import BlockEncoder, Rules
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.encoded_block import EncodedRows
from finetune_trainer.prepare.sources import Source


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer("trl/qwen2_5").save_pretrained(folder)
    return folder


def encoded(folder: Path, tokenizer: Path, rows: Sequence[dict[str, Any]], *, limit=1024, **data) -> EncodedRows:
    """Encode conversations of a test list in one block."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Data.model_validate({"train": [{"uri": "s3://data/f"}], **data})
    (block,) = cut(path, "s3://data/rows.jsonl", Source(0, "test", "s3://data/", 1))
    made = BlockEncoder(Rules(tokenizer, "messages", settings, limit)).encode(block)
    assert made.problems == []
    return made.rows["test"]


def calls(*ids: str, results: Sequence[str] = ("3", "4")) -> dict[str, Any]:
    """Return a row with calls of these ids, and a result of each."""
    call = {"type": "function", "function": {"name": "price", "arguments": {"item": "tea"}}}
    return {
        "messages": [
            {"role": "user", "content": "What does tea cost?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": one, **call} for one in ids]},
            *(
                {"role": "tool", "tool_call_id": one, "content": said}
                for one, said in zip(ids, results, strict=False)
            ),
            {"role": "assistant", "content": "Three or four euros."},
        ]
    }


def test_ids_of_calls_make_no_row_another_one(tmp_path, tokenizer):
    rows = [calls("call_a8f", "call_b"), calls("call_k2x", "call_a"), calls("a", "a"), calls("a", "b", results="43")]
    digests = encoded(tmp_path, tokenizer, rows).digests.tolist()
    assert digests[0] == digests[1]
    assert len({tuple(digest) for digest in digests}) == 3


def test_ids_of_calls_are_kept_as_they_were_written(tmp_path, tokenizer):
    [written] = map(json.loads, encoded(tmp_path, tokenizer, [calls("call_a8f", "call_b")]).test_rows)
    assert written == calls("call_a8f", "call_b")


def question(folder: Path, rows: EncodedRows) -> Question:
    """Return the only row as the export asks it."""
    with CacheWriter(folder, "test") as cache:
        cache.append_rows(rows.input_ids, rows.supervised, rows.lengths)
    (folder / "test.jsonl").write_text(f"{rows.test_rows[0]}\n")
    [asked] = read_questions(TokenCache.open(folder, "test"), folder / "test.jsonl", 1)
    return asked


@pytest.mark.parametrize(
    ("first", "second", "answer", "turns"),
    [
        ("Q1", "Q2", "A2", 3),
        ("Q1", "Q2 " + "word " * 2000, "A2", 1),  # nothing of the second answer is left
        ("Q1", "Q2", "A2 " + "word " * 2000, 3),  # its beginning is
    ],
)
def test_a_test_row_whose_end_was_cut_off_asks_what_it_tells(tmp_path, tokenizer, first, second, answer, turns):
    roles, texts = ("user", "assistant") * 2, (first, "A1", second, answer)
    row = {"id": 1, "messages": [{"role": one, "content": text} for one, text in zip(roles, texts, strict=True)]}
    asked = question(tmp_path, encoded(tmp_path, tokenizer, [row], limit=300, truncation="end"))
    line = asked.record("messages", base="", tuned="")
    assert (line["id"], line["prompt"], line["reference"]) == (1, row["messages"][:turns], texts[turns])
    template = AutoTokenizer.from_pretrained(tokenizer)
    rendered = template.apply_chat_template(line["prompt"], add_generation_prompt=True, return_dict=False)
    assert asked.prompt == rendered
