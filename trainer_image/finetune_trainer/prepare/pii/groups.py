"""Numbers that are written in groups: what may stand between the groups, and the number without its last one."""

import re

SPACES = r" \u00a0\u202f"
"""Characters of a class: the space, and the two that keep a number on one line."""
_LAST_GROUP = re.compile(r"(?:\W+|^)\w+$")


def shorter(text: str) -> str:
    """Return a number without its last group, which may belong to what follows."""
    return _LAST_GROUP.sub("", text)
