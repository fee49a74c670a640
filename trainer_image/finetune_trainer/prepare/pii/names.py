"""What the names around a value say of it: its own, that of the field above, and the key of a pair.

All of these are phone numbers: {"phone": {"value": "3471234567"}}, {"key": "phone", "value": "3471234567"}.
"""

import re
from functools import lru_cache
from typing import Any

Names = tuple[str, ...]
"""The last two above a value, from the outside."""
_NOTHING_SAID = frozenset({"value", "Value", "val", "text", "raw"})
"""Names of whatever the field above, or the key beside, names."""
_TELLING = frozenset({"key", "Key", "name", "Name"})
_PARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\d]+")
_LONGEST = 64


def within(names: Names, name: str, told: str = "") -> Names:
    """Return the names of a value called `name` in an object that has these; `told`: what came before in it tells."""
    if name in _NOTHING_SAID:
        if not told:
            return names or (name,)
        name = told
    return (*names[-1:], name[-_LONGEST:])


def told_by(name: str, value: Any) -> str:
    """Return what a value tells of the one behind it in the object; "": nothing."""
    return value if name in _TELLING and isinstance(value, str) else ""


@lru_cache(4096)
def context(names: Names) -> str:
    """Return the words of names, as they would stand before a value: `telefonoCliente_2` is `telefono Cliente`.

    A comma is between two: what the inner one says by itself, it still says.
    """
    return ", ".join(_PARTS.sub(" ", name).strip() for name in names) + ": " if names else ""
