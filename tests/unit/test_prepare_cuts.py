"""Cuts: a text may be cut where generation from its beginning would have gone on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_builders import make_tokenizer

from finetune_trainer.prepare.cuts import FastTokens

PIECES = [
    "Open the",
    " settings",
    ".",
    "\n",
    "\n\n",
    "  ",
    "🙂",
    "<|im_end|>",
    "<|im_start|>",
    "assistant",
    "<|im_",
    "é",
]


@pytest.fixture(scope="module", params=["chatml", "mistral metaspace"])
def tokenizer(request):
    name, _, metaspace = request.param.partition(" ")
    return make_tokenizer(name, metaspace=bool(metaspace))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.data())
def test_a_cut_is_where_the_tokens_of_the_beginning_end(tokenizer, text, data):
    at = data.draw(st.integers(0, len(text)))
    tokens = FastTokens(tokenizer)
    [ids] = tokens.ids([text])
    assert list(ids) == tokenizer(text, add_special_tokens=False)["input_ids"]
    found = tokens.cut(tokens.locate(text, ids), at)
    before = tokenizer(text[:at], add_special_tokens=False)["input_ids"]
    assert found == (len(before) if list(ids[: len(before)]) == before else None)


def test_added_tokens_are_found_where_they_stand(tokenizer):
    end = tokenizer.eos_token
    text = f"a{end}{end} b {end}"
    tokens = FastTokens(tokenizer)
    [ids] = tokens.ids([text])
    row = tokens.locate(text, ids)
    last = row.last_anchor(len(text))
    assert (last.start, last.end, ids[last.position]) == (len(text) - len(end), len(text), tokenizer.eos_token_id)
    assert row.last_anchor(0) is None
    assert row.is_inside_anchor(2)
    assert not row.is_inside_anchor(1)


def test_no_texts_have_no_tokens(tokenizer):
    assert FastTokens(tokenizer).ids([]) == []
