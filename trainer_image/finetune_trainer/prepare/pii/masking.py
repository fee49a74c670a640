"""Placeholders in the place of personal data.

    Write to <EMAIL_1> or call <PHONE_1>; <EMAIL_1> is read every day.

The same value has the same placeholder within a row, so that the text stays one that can be learned from. Numbers
begin anew in every row: what rows have in common about a person is not kept, and nothing that is kept was made from
the value.
"""

import math
import re
from collections import Counter, defaultdict
from decimal import Decimal
from functools import lru_cache
from typing import Any

from finetune_trainer.prepare.pii import json_text
from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.spelling import may_hold_any

_LEAST_NUMBER = 10**6
_END_OF_NUMBERS = 10**20
"""Numbers with fewer or more digits are no personal data of any kind."""
_NAME_PARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\d]+")
_LONGEST_NAME = 64


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
        return {name: self.value(value, name) for name, value in columns.items()}

    def value(self, value: Any, name: str = "") -> Any:
        """Return a JSON value with every text and number in it masked, and the names in its objects.

        A name tells what its value is: that of `"phone": "3471234567"` is a phone number. Of names that are spellings
        of one value, the last is kept.
        """
        if isinstance(value, str):
            return self.text(value, name)
        if isinstance(value, (list, tuple)):
            return [self.value(item, name) for item in value]
        if isinstance(value, dict):
            return {self._name(key): self.value(item, str(key)) for key, item in value.items()}
        if isinstance(value, bytes):
            return self._bytes(value, name)
        return self._number(value, name) if isinstance(value, (int, float, Decimal)) else value

    def text(self, text: str, name: str = "") -> str:
        """Return a text with placeholders, in which JSON stays JSON; `name` is what the row calls it."""
        if not may_hold_any(text):
            return text
        parts, position = [], 0
        for start, end in json_text.objects_in(text):
            parts += [self._words(text[position:start], name), json_text.masked(text[start:end], self._json, name)]
            position = end
        return "".join([*parts, self._words(text[position:], name)])

    def _words(self, text: str, name: str = "") -> str:
        parts, position = [], 0
        for place in self._finder.find(text, _context(name) if name else ""):
            self.found[place.kind] += 1
            parts += [text[position : place.start], self._placeholder(place.kind, text[place.start : place.end])]
            position = place.end
        return "".join([*parts, text[position:]])

    def _name(self, name: Any) -> Any:
        return self._words(name) if isinstance(name, str) else name

    def _bytes(self, value: bytes, name: str) -> bytes | str:
        """Mask what a column of bytes holds as text; a picture stays what it is."""
        try:
            written = value.decode()
        except UnicodeDecodeError:
            written = value.decode("latin-1")
        masked = self.text(written, name)
        return value if masked == written else masked

    def _number(self, value: float | Decimal, name: str) -> float | Decimal | str:
        """Mask a whole number; tables with gaps have them as decimals."""
        if not isinstance(value, int) and not math.isfinite(value):
            return value
        whole = int(value)
        if whole != value or not _LEAST_NUMBER <= abs(whole) < _END_OF_NUMBERS:
            return value
        written = str(whole)
        masked = self._words(written, name)
        return value if masked == written else masked

    def _placeholder(self, kind: str, value: str) -> str:
        same = self._finder.same(kind, value)
        numbers = self._numbers[kind]
        number = numbers.setdefault(same, len(numbers) + 1)
        label = re.sub("([A-Z])", r"_\1", kind).upper()
        return f"<{label}_{number}>"


@lru_cache(4096)
def _context(name: str) -> str:
    """Return the words of a name, as they would stand before a value: `telefonoCliente_2` is `telefono Cliente`."""
    return _NAME_PARTS.sub(" ", name[-_LONGEST_NAME:]).strip() + ": "
