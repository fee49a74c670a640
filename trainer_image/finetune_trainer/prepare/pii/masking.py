"""Placeholders in the place of personal data.

    Write to <EMAIL_1> or call <PHONE_1>; <EMAIL_1> is read every day.

The same value has the same placeholder within a row, so that the text stays one that can be learned from. Numbers
begin anew in every row: what rows have in common about a person is not kept, and nothing that is kept was made from
the value.
"""

import re
from collections import Counter
from typing import Any

from finetune_trainer.prepare.pii.find import Finder

_LEAST_NUMBER = 10**6
"""Shorter numbers are no personal data of any kind."""


class RowMask:
    """Replaces the personal data of one row, text by text."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._numbers: dict[tuple[str, str], int] = {}
        self.found: Counter[str] = Counter()
        """Places by kind."""

    def value(self, value: Any, name: str = "") -> Any:
        """Return a JSON value with every text and number in it masked; the names of an object stay.

        A name tells what its value is: that of `"phone": "3471234567"` is a phone number.
        """
        if isinstance(value, str):
            return self.text(value, name)
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        if isinstance(value, dict):
            return {key: self.value(item, str(key)) for key, item in value.items()}
        return self._number(value, name) if isinstance(value, int) and abs(value) >= _LEAST_NUMBER else value

    def text(self, text: str, name: str = "") -> str:
        """Return a text with placeholders; `name` is what the row calls it."""
        parts, position = [], 0
        for place in self._finder.find(text, f"{name}: " if name else ""):
            self.found[place.kind] += 1
            parts += [text[position : place.start], self._placeholder(place.kind, text[place.start : place.end])]
            position = place.end
        return "".join([*parts, text[position:]])

    def _number(self, value: int, name: str) -> int | str:
        written = str(value)
        masked = self.text(written, name)
        return value if masked == written else masked

    def _placeholder(self, kind: str, value: str) -> str:
        same = self._finder.same(kind, value)
        earlier = sum(1 for other, _ in self._numbers if other == kind)
        number = self._numbers.setdefault((kind, same), earlier + 1)
        label = re.sub("([A-Z])", r"_\1", kind).upper()
        return f"<{label}_{number}>"
