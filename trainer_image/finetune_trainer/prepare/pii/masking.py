"""Placeholders in the place of personal data.

    Write to <EMAIL_1> or call <PHONE_1>; <EMAIL_1> is read every day.

The same value has the same placeholder within a row, so that the text stays one that can be learned from. Numbers
begin anew in every row: what rows have in common about a person is not kept, and nothing that is kept was made from
the value.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from finetune_trainer.prepare.pii import json_text
from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.names import Names, context, told_by, within
from finetune_trainer.prepare.pii.spelling import may_hold_any

_LEAST_NUMBER = 10**6
_END_OF_NUMBERS = 10**20
"""Numbers with fewer or more digits are no personal data of any kind."""


class RowMask:
    """Replaces the personal data of one row, text by text."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """By kind, that of each value."""
        self._json = json_text.Masks(self.value, self._words)
        self.found: Counter[str] = Counter()
        """Places by kind."""

    def row(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a row with their values masked; their own names stay."""
        return dict(zip(columns, self._values(columns, ()), strict=True))

    def value(self, value: Any, names: Names = ()) -> Any:
        """Return a JSON value with every text and number in it masked, and the names in its objects.

        Names tell what a value is: that of `"phone": "3471234567"` is a phone number. Of names that are spellings
        of one value, the last is kept.
        """
        if isinstance(value, str):
            return self.text(value, names)
        if isinstance(value, (list, tuple)):
            return self._items(value, names)
        if isinstance(value, dict):
            return dict(zip(map(self._name, value), self._values(value, names), strict=True))
        if isinstance(value, bytes):
            return self._bytes(value, names)
        return self._number(value, names) if isinstance(value, (int, float, Decimal)) else value

    def _items(self, items: list[Any] | tuple[Any, ...], names: Names) -> list[Any]:
        if isinstance(items, tuple) and len(items) == 2 and isinstance(items[0], str):  # one entry of an Arrow map
            return [self.value(items[0], names), self.value(items[1], within(names, items[0]))]
        return [self.value(item, names) for item in items]

    def _values(self, items: dict[Any, Any], names: Names) -> Iterator[Any]:
        told = ""
        for name, value in items.items():
            yield self.value(value, within(names, str(name), told))
            told = told_by(name, value) or told

    def text(self, text: str, names: Names = ()) -> str:
        """Return a text with placeholders, in which JSON stays JSON; `names` are what the row calls it."""
        if not may_hold_any(text):
            return text
        parts, position = [], 0
        for start, end in json_text.objects_in(text):
            parts += [self._words(text[position:start], names), json_text.masked(text[start:end], self._json, names)]
            position = end
        return "".join([*parts, self._words(text[position:], names)])

    def _words(self, text: str, names: Names = ()) -> str:
        parts, position = [], 0
        for place in self._finder.find(text, context(names)):
            self.found[place.kind] += 1
            parts += [text[position : place.start], self._placeholder(place.kind, text[place.start : place.end])]
            position = place.end
        return "".join([*parts, text[position:]])

    def _name(self, name: Any) -> Any:
        return self._words(name) if isinstance(name, str) else name

    def _bytes(self, value: bytes, names: Names) -> bytes | str:
        """Mask what a column of bytes holds as text; a picture stays what it is."""
        try:
            written = value.decode()
        except UnicodeDecodeError:
            written = value.decode("latin-1")
        masked = self.text(written, names)
        return value if masked == written else masked

    def _number(self, value: float | Decimal, names: Names) -> float | Decimal | str:
        """Mask a whole number; tables with gaps have them as decimals."""
        if not isinstance(value, int) and not math.isfinite(value):
            return value
        whole = int(value)
        if whole != value or not _LEAST_NUMBER <= abs(whole) < _END_OF_NUMBERS:
            return value
        written = str(whole)
        masked = self._words(written, names)
        return value if masked == written else masked

    def _placeholder(self, kind: str, value: str) -> str:
        same = self._finder.same(kind, value)
        numbers = self._numbers[kind]
        number = numbers.setdefault(same, len(numbers) + 1)
        label = re.sub("([A-Z])", r"_\1", kind).upper()
        return f"<{label}_{number}>"
