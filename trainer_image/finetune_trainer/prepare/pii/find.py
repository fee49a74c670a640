"""Where personal data stands in a text."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from finetune_trainer.prepare.pii.kinds import KINDS, Kind
from finetune_trainer.prepare.pii.spelling import may_hold_any, plain

_MOST_ROUNDS = 32
"""Each costs time in proportion to the text; two are usual."""
_SPACE = re.compile(r"\s")


class Found(NamedTuple):
    """One place in a text: characters [start, end)."""

    kind: str
    start: int
    end: int


class Finder:
    """Finds some kinds of personal data; phone numbers without a country are those of `region` (ISO 3166)."""

    def __init__(self, kinds: Iterable[str], region: str) -> None:
        wanted = set(kinds)
        self._kinds = [kind for kind in KINDS if kind.name in wanted]
        self._region = region

    def find(self, text: str, before: str = "") -> list[Found]:
        """Return all places, in the order of the text; of those that overlap, the longest.

        What stands `before` the text may say what its numbers are; nothing is looked for there.
        """
        if not may_hold_any(text):
            return []
        whole, begin = plain(before + text), len(before)
        taken: list[Found] = []
        for _ in range(_MOST_ROUNDS):
            places = self._places(_without(taken, whole))
            if not places:
                break
            taken += places
        found = [Found(place.kind, place.start - begin, place.end - begin) for place in taken if place.start >= begin]
        return sorted(found, key=lambda place: place.start)

    def same(self, kind: str, value: str) -> str:
        """Return what all spellings of a value that was found have in common."""
        return next(one for one in self._kinds if one.name == kind).same(plain(value), self._region)

    def _places(self, text: str) -> list[Found]:
        """Return the longest; what they covered may hide others, which are found once these are gone."""
        places = [place for kind in self._kinds if kind.sign in text for place in self._candidates(kind, text)]
        taken: list[Found] = []  # by place; none overlaps another
        for place in sorted(places, key=lambda place: place.start - place.end):
            at = bisect_left(taken, place.start, key=lambda other: other.start)
            is_behind = at == 0 or taken[at - 1].end <= place.start
            if is_behind and (at == len(taken) or place.end <= taken[at].start):
                taken.insert(at, place)
        return taken

    def _candidates(self, kind: Kind, text: str) -> Iterator[Found]:
        position = 0
        while match := kind.form.search(text, position):
            end = kind.verify(match, self._region)
            if end:
                yield Found(kind.name, match.start(), end)
            position = end or _after_first_word(match)


def _without(places: list[Found], text: str) -> str:
    """Return the text, as long as before, with something like a placeholder in each of the places."""
    parts, position = [], 0
    for place in sorted(places, key=lambda place: place.start):
        parts += [text[position : place.start], f"<{'x' * (place.end - place.start - 2)}>"]
        position = place.end
    return "".join([*parts, text[position:]])


def _after_first_word(match: re.Match[str]) -> int:
    """Return where to look on behind a candidate that is nothing: a part of it may still be something."""
    space = _SPACE.search(match[0], 1)
    return match.start() + space.end() if space else match.end()
