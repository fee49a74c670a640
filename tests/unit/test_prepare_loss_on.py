"""Which tokens are learned, and what becomes of rows that are too long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import write_tiny_tokenizer
from transformers import AutoTokenizer

from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.encode import build_encoder
from finetune_trainer.prepare.formats import Completion

TALK = Conversation(
    (
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("assistant", "First."),
        Turn("user", "Two?"),
        Turn("assistant", "Second."),
    )
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("loss_on", "learned"),
    [
        ("assistant", "First.<|im_end|>Second.<|im_end|>"),
        ("lastAssistant", "Second.<|im_end|>"),
        (
            "completion",
            "First.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nSecond.<|im_end|>",
        ),
    ],
)
def test_conversations(tokenizer, loss_on, learned):
    [row] = build_encoder(tokenizer, "messages", loss_on).encode([TALK])
    ids = [token for token, flag in zip(row.input_ids, row.supervised, strict=True) if flag]
    assert tokenizer.decode(ids) == learned


@pytest.mark.parametrize("loss_on", ["assistant", "lastAssistant", "completion", "all"])
def test_completions(tokenizer, loss_on):
    [row] = build_encoder(tokenizer, "promptCompletion", loss_on).encode([Completion("Q", "A")])
    assert row.supervised[-2:] == b"\1\1"
    assert row.supervised[0] == (loss_on == "all")


def test_the_oldest_turns_go_so_that_the_last_answer_stays_whole(tokenizer):
    encoder = build_encoder(tokenizer, "messages")
    [whole] = encoder.encode([TALK])
    shorter = encoder.shorten(TALK, len(whole.input_ids) - 1)
    text = tokenizer.decode(shorter.input_ids)
    assert "Be brief." in text
    assert "One?" not in text
    assert text.endswith("Two?<|im_end|>\n<|im_start|>assistant\nSecond.<|im_end|>\n")
    assert encoder.shorten(TALK, len(shorter.input_ids)) == shorter
    assert encoder.shorten(TALK, len(shorter.input_ids) - 1) is None


WORD = st.text("abc xyz.", min_size=1, max_size=12).filter(str.strip)


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=6), st.booleans(), st.integers(20, 120))
@settings(deadline=None, max_examples=25)
def test_no_answer_is_ever_cut_to_fit(tokenizer, exchanges, with_system, limit):
    opening = (Turn("system", "Be brief."),) if with_system else ()
    turns = tuple(turn for asked, said in exchanges for turn in (Turn("user", asked), Turn("assistant", said)))
    encoder = build_encoder(tokenizer, "messages")
    found = encoder.shorten(Conversation(opening + turns), limit)
    kept = [encoder.encode([Conversation(opening + turns[2 * first :])])[0] for first in range(1, len(exchanges))]
    # The longest of those that fit, as it is encoded when nothing stood before it.
    assert found == next((row for row in kept if len(row.input_ids) <= limit), None)


def test_few_renderings_find_the_longest_rest_of_a_long_talk(tokenizer, monkeypatch):
    turns = tuple(Turn(role, f"number {number}") for number in range(100) for role in ("user", "assistant"))
    encoder = build_encoder(tokenizer, "messages")
    tries = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda examples: tries.append(1) or encode(examples))
    assert 64 < len(encoder.shorten(Conversation(turns), 100).input_ids) <= 100
    assert len(tries) < 10


def test_the_beginning_of_a_prompt_goes(tokenizer):
    encoder = build_encoder(tokenizer, "promptCompletion")
    example = Completion("a long question with many words", "yes")
    [whole] = encoder.encode([example])
    answer = sum(whole.supervised)
    shorter = encoder.shorten(example, answer + 3)
    assert shorter.input_ids == whole.input_ids[-answer - 3 :]
    assert shorter.supervised == bytes(3) + b"\1" * answer
    assert encoder.shorten(example, answer) is None
