"""Numbers that are written in groups: what may stand between the groups, and where such a number ends."""

import re
from collections.abc import Callable

SPACES = r" \u00a0\u202f"
"""Characters of a class: the space, and the two that keep a number on one line."""
_LAST_GROUP = re.compile(r"(?:\W+|^)\w+$")


def end_of(match: re.Match[str], is_valid: Callable[[str], bool], *, least: int) -> int:
    """Return where the number that a candidate begins with ends, 0 if there is none of at least so many characters.

    It is tried shorter and shorter, a group at a time: what follows a number looks like a part of it.
    """
    text = match[0]
    while len(text) >= least:
        if is_valid(text):
            return match.start() + len(text)
        text = _LAST_GROUP.sub("", text)
    return 0
