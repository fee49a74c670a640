"""Where personal data stands in a text."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from finetune_trainer.prepare.pii.kinds import KINDS, Kind


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

    def find(self, text: str) -> list[Found]:
        """Return all places, in the order of the text; of those that overlap, the longest."""
        if not _may_hold_any(text):
            return []
        taken: list[Found] = []
        while places := self._places(_without(taken, text)):
            taken += places
        return sorted(taken, key=lambda place: place.start)

    def _places(self, text: str) -> list[Found]:
        """Return the longest; what they covered may hide others, which are found once these are gone."""
        places = [place for kind in self._kinds for place in self._candidates(kind, text)]
        taken: list[Found] = []
        for place in sorted(places, key=lambda place: place.start - place.end):
            if all(place.end <= other.start or other.end <= place.start for other in taken):
                taken.append(place)
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
    for place in places:
        text = f"{text[: place.start]}<{'x' * (place.end - place.start - 2)}>{text[place.end :]}"
    return text


def _may_hold_any(text: str) -> bool:
    """Tell most texts apart at the speed of the C library: every kind has an @, a digit or a double colon."""
    return "@" in text or "::" in text or any(digit in text for digit in "0123456789")


def _after_first_word(match: re.Match[str]) -> int:
    """Return where to look on behind a candidate that is nothing: a part of it may still be something."""
    space = match[0].find(" ")
    return match.start() + space + 1 if space > 0 else match.end()
