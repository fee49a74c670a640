"""Tokens from pieces: those of the whole text, whatever expression splits it, or no cut at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from finetune_trainer.prepare import pieces
from finetune_trainer.prepare.pieces import SPLITS, PieceTokens, can_cut

PARTS = ["Open", " ", "  ", "\n", " the", "'s", "IT'S", "12345", "é", "e\u0301", " \u0301", "🙂", "a/b/", "...", "\t"]
PARTS += ["<|end|>", "<|e", "\u00a0", "\u3000", "\x1c", "\u0085", "\u200b", "日本", "\r\n", "ǅ"]


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def tokenizer(splitter: pre_tokenizers.PreTokenizer, normalizer=None) -> Tokenizer:
    """Make a tokenizer whose merges reach over spaces wherever its splits allow it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.normalizer = splitter, normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    made.train_from_iterator([" ".join(PARTS), "".join(PARTS)] * 3, trainer)
    return made


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
CUT = {
    **{name: tokenizer(split_by(pattern), normalizers.NFC()) for name, pattern in SPLITS.items()},
    "smollm": tokenizer(DIGITS),
    "bytes": tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False)),
}


@pytest.mark.parametrize("name", CUT)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), max_size=3))
def test_pieces_have_the_tokens_of_the_whole(name, texts):
    backend = CUT[name]
    assert can_cut(backend)
    wanted = [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
    assert [list(ids) for ids in PieceTokens(backend).ids(texts)] == wanted


@pytest.mark.parametrize(
    "backend",
    [
        tokenizer(pre_tokenizers.Metaspace()),
        tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        tokenizer(split_by(r"\w+ \w+|.")),
        tokenizer(split_by(SPLITS["qwen2"]), normalizers.Prepend("▁")),
        Tokenizer(models.WordPiece({"a": 0})),
    ],
)
def test_texts_of_other_tokenizers_are_not_cut(backend):
    assert not can_cut(backend)


@pytest.mark.parametrize("options", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"content": "<a b>"}])
def test_tokens_that_take_spaces_forbid_cuts(options):
    backend = tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend.add_special_tokens([AddedToken(**{"content": "<a>", **options})])
    assert not can_cut(backend)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(pieces, "_KEPT_CHARACTERS", 1000)
    kept = PieceTokens(CUT["bytes"])
    for number in range(100):
        kept.ids([f"{number} is a number"])
        assert len(kept._tokens) < 40
