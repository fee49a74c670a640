"""Tokens of texts from the tokens of their pieces, each of which is tokenised once: most words come again and again.

A tokenizer splits a text before it merges, and never looks past the end of what it has split. Those that follow
GPT-2's expression, as do those of Llama 3, Qwen, SmolLM and gpt-oss, always split before a single space between two
characters that are none: no alternative of theirs goes on from another character to a space. So the tokens of a text
are those of its pieces between such places, one after the other. This holds as long as nothing that is matched
before reaches over a space (`can_cut`); texts of other tokenizers (those of SentencePiece, among others, whose words
are not split) are tokenised as a whole.
"""

import json
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any

_CUT = re.compile(r" (?=\S)(?<=\S )")
"""It begins with the space, which is found many times faster than what stands before it."""
_WORDS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(short_forms: str, digits: str) -> str:
    words = rf"{_WORDS}[{_UPPER}]*[{_LOWER}]+{short_forms}|{_WORDS}[{_UPPER}]+[{_LOWER}]*{short_forms}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"


SPLITS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": rf"{_SHORT_FORMS}|{_WORDS}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDS}",
    "qwen2": rf"{_SHORT_FORMS}|{_WORDS}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_ENDS}",
    "qwen3.5": rf"{_SHORT_FORMS}|{_WORDS}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_ENDS}",
    "gpt-oss": _cased(f"{_SHORT_FORMS}?", r"\p{N}{1,3}"),
    "tekken": _cased("", r"\p{N}"),
}
"""Expressions by which texts are split, by a model that has them."""
_AT_ONCE = 256
_KEPT_CHARACTERS = 8 * 1024 * 1024
"""Of pieces, each counted with 32 more: about 50 MB."""


class PieceTokens:
    """The tokens of pieces that were met before; all are forgotten when they are too many.

    A piece is known without the space that it begins with; the first of a text, which may begin with anything, with a
    space before it, as no other is.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder().items()
        marks = ((str(one.content), int(token)) for token, one in added if not one.normalized)
        self._mark, self._mark_token = next(marks, ("", -1))
        self._tokens: dict[str, bytes] = {}
        self._characters = 0

    def ids(self, texts: Sequence[str]) -> list["array[int]"]:
        """Return the tokens of texts, with no token added before or after."""
        if self._characters > _KEPT_CHARACTERS:
            self._tokens.clear()
            self._characters = 0
        pieces = [_CUT.split(text) for text in texts]
        for some in pieces:
            some[0] = f" {some[0]}"
        self._learn(list(set(chain.from_iterable(pieces)).difference(self._tokens)))
        tokens_of = self._tokens.__getitem__
        return [array("I", b"".join(map(tokens_of, some))) for some in pieces]

    def _learn(self, pieces: list[str]) -> None:
        """Keep the tokens of pieces, by the names they are known by."""
        self._characters += sum(map(len, pieces)) + 32 * len(pieces)
        alone = [piece for piece in pieces if not self._mark or self._mark in piece]
        self._keep(alone, (one.ids for one in self._encode(alone)))
        others = list(set(pieces).difference(alone))
        for start in range(0, len(others), _AT_ONCE):
            some = others[start : start + _AT_ONCE]
            self._keep(some, self._apart(some))

    def _apart(self, pieces: list[str]) -> Iterable[list[int]]:
        """Tokenise pieces as one text with an added token between any two: less than half of the work."""
        ids = self._encode_texts([self._mark.join(map(_text_of, pieces))])[0].ids
        marks = [place for place, token in enumerate(ids) if token == self._mark_token]
        if len(marks) != len(pieces) - 1:  # the end of a piece and the mark hold another added token
            return (one.ids for one in self._encode(pieces))
        return (ids[before + 1 : mark] for before, mark in pairwise([-1, *marks, len(ids)]))

    def _encode(self, pieces: list[str]) -> Any:
        return self._encode_texts(list(map(_text_of, pieces)))

    def _encode_texts(self, texts: list[str]) -> Any:
        return self._backend.encode_batch_fast(texts, add_special_tokens=False)

    def _keep(self, pieces: Iterable[str], tokens: Iterable[list[int]]) -> None:
        self._tokens.update((piece, array("I", ids).tobytes()) for piece, ids in zip(pieces, tokens, strict=True))


def _text_of(piece: str) -> str:
    return piece[1:] if piece.startswith(" ") else f" {piece}"


def can_cut(backend: Any) -> bool:
    """Whether the tokens of a text are those of its pieces."""
    return (
        getattr(backend.model, "dropout", 1) in (None, 0)
        and (backend.normalizer is None or _state(backend.normalizer)["type"] == "NFC")
        and backend.pre_tokenizer is not None
        and _splits_before_spaces(_state(backend.pre_tokenizer))
        and not any(map(_may_reach_over_space, backend.get_added_tokens_decoder().values()))
    )


def _splits_before_spaces(splitter: dict[str, Any]) -> bool:
    """Whether GPT-2's expression or one like it is the last to split; digits may have been split off before it."""
    steps = [splitter] if splitter["type"] != "Sequence" else splitter["pretokenizers"]
    *first, last = [step for step in steps if step["type"] != "Digits"]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    if last["use_regex"]:
        return not first
    return len(first) == 1 and _is_known(first[0])


def _is_known(step: dict[str, Any]) -> bool:
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return False
    return step["pattern"].get("Regex") in SPLITS.values()


def _may_reach_over_space(token: Any) -> bool:
    return token.lstrip or token.rstrip or token.single_word or any(map(str.isspace, token.content))


def _state(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as it stands in tokenizer.json."""
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state
