"""Numbers that are written in groups: where such a number ends."""

import re
from collections.abc import Callable, Iterable

_BREAK = re.compile(r"\s*[\n\r\t]")
_GROUP = re.compile(r"\w+")


def _no_fronts(line: str) -> Iterable[str]:
    return ()


def end_of(
    match: re.Match[str],
    is_valid: Callable[[str], bool],
    *,
    least: int,
    fronts: Callable[[str], Iterable[str]] = _no_fronts,
) -> int:
    """Return where the number that a candidate begins with ends, 0 if there is none of at least so many characters.

    It is tried shorter and shorter, a group at a time: what follows a number looks like a part of it. A number goes
    on in the next line, or behind a tab, only if it is none before, and so it does behind the `fronts` of a line.
    """
    text = match[0]
    line = _BREAK.split(text, maxsplit=1)[0]
    for part in dict.fromkeys((*fronts(line), line, text)):
        if length := length_of(part, is_valid, least=least):
            return match.start() + length
    return 0


def length_of(text: str, is_valid: Callable[[str], bool], *, least: int) -> int:
    """Return the length of the longest number that a text begins with, whole groups of it; 0 if there is none."""
    ends = [group.end() for group in _GROUP.finditer(text)]
    return next((end for end in reversed(ends) if end >= least and is_valid(text[:end])), 0)
