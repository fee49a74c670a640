"""Tokens of texts, and where among them a text may be cut.

A text is tokenised without offsets, the faster way, to the tokens of the whole text. A cut before character c falls
between two tokens if the tokens of text[:c] are the first ones of the whole. That need not be tried on all of
it: a tokenizer splits a text at its added tokens (`<|im_start|>`, ...) before it does anything else, so what stands
ahead of one has the same tokens whatever follows. Only what lies between the last added token before the cut and the
cut is tokenised by itself; mostly that is the same few characters in every row (`<|im_start|>assistant\n`), whose
tokens are kept.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from finetune_trainer.prepare.pieces import PieceTokens, can_cut

_KEPT = 4096
"""Short texts whose tokens are kept."""
_SHORT = 256
"""Characters."""


class Anchor(NamedTuple):
    """An added token in a text: characters [start, end), its id and its position among the tokens."""

    start: int
    end: int
    token: int
    position: int


class TokenizedText:
    """A text, its tokens, and the added tokens in it."""

    def __init__(self, text: str, ids: "array[int]", anchors: list[Anchor]) -> None:
        self.text = text
        self.ids = ids
        self._anchors = anchors
        self._ends = [anchor.end for anchor in anchors]

    def last_anchor(self, before: int) -> Anchor | None:
        """Return the last added token that ends at a character or before it."""
        at = bisect_right(self._ends, before)
        return self._anchors[at - 1] if at else None

    def is_inside_anchor(self, character: int) -> bool:
        """Whether a cut before a character would go through an added token."""
        at = bisect_right(self._ends, character)
        return at < len(self._anchors) and self._anchors[at].start < character


class FastTokens:
    """The fast tokenizer below a tokenizer of transformers, without that one's copies of every list."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        # Those that are matched in the normalised text come after the others and split what those have left.
        self._added = {
            added.content: token for token, added in tokenizer.added_tokens_decoder.items() if not added.normalized
        }
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first)) if longest_first else None
        self._kept = lru_cache(_KEPT)(self._encode)
        self._pieces = PieceTokens(self._backend) if can_cut(self._backend) else None

    def ids(self, texts: Sequence[str]) -> list["array[int]"]:
        """Return the tokens of texts, uint32, with no token added before or after."""
        if not texts:
            return []
        if self._pieces is not None:
            return self._pieces.ids(texts)
        return [array("I", one.ids) for one in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def locate(self, text: str, ids: "array[int]") -> TokenizedText:
        """Find the added tokens of a text; where the tokenizer took one for plain text, those before it alone."""
        anchors = []
        index = -1
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._added[match[0]]
            try:
                index = ids.index(token, index + 1)
            except ValueError:
                break
            anchors.append(Anchor(match.start(), match.end(), token, index))
        return TokenizedText(text, ids, anchors)

    def cut(self, row: TokenizedText, character: int) -> int | None:
        """Return how many tokens stand before a character; None when one reaches over it."""
        if character == len(row.text):
            return len(row.ids)
        if row.is_inside_anchor(character):
            return None
        anchor = row.last_anchor(character)
        if anchor is not None and anchor.end == character:
            return anchor.position + 1
        start, index = (anchor.start, anchor.position) if anchor else (0, 0)
        before = row.text[start:character]
        given = self._kept(before) if len(before) <= _SHORT else self._encode(before)
        end = index + len(given)
        return end if row.ids[index:end] == given else None

    def _encode(self, text: str) -> "array[int]":
        return array("I", self._backend.encode(text, add_special_tokens=False).ids)
