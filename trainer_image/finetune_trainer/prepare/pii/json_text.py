"""JSON in texts: answers of tools, calls in the words of a turn, objects in a block of code.

It is masked value by value, and what is not masked stays as it was written: spaces, decimals, the order of names.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune_trainer.prepare.pii.names import Names, told_by, within

_OPENING = re.compile(r'\{\s{0,200}"')
_DECODER = json.JSONDecoder(strict=False)
_TOKEN = re.compile(
    r'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")(?P<name>\s*:)?|(?P<number>-?\d+(?P<decimals>\.\d+)?(?P<exponent>[eE][+-]?\d+)?)'
    r"|(?P<begin>[\[{])|(?P<end>[\]}])",
    re.DOTALL,
)
_IN_VAIN = 8
"""Characters that are read, at most, for each of the text: what begins like JSON need not be JSON."""
_LINES_PER_CHARACTER = 32
"""The error of the library counts the lines before it, so many characters in the time that it reads one."""


class Masks(NamedTuple):
    """What masks the parts of a JSON text."""

    value: Callable[[Any, Names], Any]
    """Takes a text or number, and the names of it."""
    name: Callable[[str], str]


@dataclass(slots=True)
class _Level:
    """One list or object of those that are open."""

    above: Names
    names: Names
    """Of the value that comes next."""
    name: str = ""
    told: str = ""


def objects_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield where JSON stands in a text: characters [start, end) of all of it, or of objects between other words."""
    begin = len(text) - len(text.lstrip())
    if text.startswith("[", begin) and _is_json(text.strip()):
        yield begin, len(text.rstrip())
        return
    position, left = 0, _IN_VAIN * len(text)
    while left > 0 and (opening := _OPENING.search(text, position)):
        try:
            _, position = _DECODER.raw_decode(text, opening.start())
        except json.JSONDecodeError as error:
            position = opening.start() + 1
            left -= error.pos - opening.start() + error.pos // _LINES_PER_CHARACTER
        except (ValueError, RecursionError):  # a number too long for Python, or too many brackets
            return
        else:
            yield opening.start(), position


def masked(text: str, masks: Masks, names: Names = ()) -> str:
    """Return a JSON text with its values and the names in its objects masked; `names` are what the row calls it."""
    parts, position, levels = [], 0, [_Level(names, names)]
    for token in _TOKEN.finditer(text):
        if token["begin"]:
            above = levels[-1].names
            levels.append(_Level(above, above))
        elif token["end"]:
            levels.pop()
        else:
            parts += [text[position : token.start()], _token(token, masks, levels[-1])]
            position = token.end()
    return "".join([*parts, text[position:]])


def _token(token: re.Match[str], masks: Masks, level: _Level) -> str:
    """Return a token as it stays or is masked; a name of an object is that of what follows it."""
    value = json.loads(token["text"] or token["number"], strict=False)
    if token["name"]:
        level.name, level.names = value, within(level.above, value, level.told)
        return _written(value, masks.name(value), token["text"]) + token["name"]
    level.told = told_by(level.name, value) or level.told
    return _written(value, masks.value(value, level.names), token[0])


def _written(value: Any, now: Any, text: str) -> str:
    return text if now is value or now == value else json.dumps(now, ensure_ascii="\\u" in text)


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
