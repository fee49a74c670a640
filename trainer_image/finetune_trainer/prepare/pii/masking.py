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


class RowMask:
    """Replaces the personal data of one row, text by text."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._numbers: dict[tuple[str, str], int] = {}
        self.found: Counter[str] = Counter()
        """Places by kind."""

    def value(self, value: Any) -> Any:
        """Return a JSON value with every text in it masked; keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        return value

    def text(self, text: str) -> str:
        """Return a text with placeholders."""
        parts, position = [], 0
        for place in self._finder.find(text):
            self.found[place.kind] += 1
            parts += [text[position : place.start], self._placeholder(place.kind, text[place.start : place.end])]
            position = place.end
        return "".join([*parts, text[position:]])

    def _placeholder(self, kind: str, value: str) -> str:
        same = re.sub(r"[\W_]", "", value).casefold()
        earlier = sum(1 for other, _ in self._numbers if other == kind)
        number = self._numbers.setdefault((kind, same), earlier + 1)
        label = re.sub("([A-Z])", r"_\1", kind).upper()
        return f"<{label}_{number}>"
