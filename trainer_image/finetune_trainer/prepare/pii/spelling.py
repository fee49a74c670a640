"""Texts as the forms of personal data are written: one spelling of a digit, a dash or a space.

A text keeps its length, so that a place in it is the same place in the text as it was.
"""

import re
import unicodedata

_LETTERS = map(chr, range(0x80, 0x10000))
_CHARACTERS = {
    **{letter: str(unicodedata.digit(letter)) for letter in _LETTERS if unicodedata.category(letter) == "Nd"},
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
    "\u00a0": " ",
    **dict.fromkeys("\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    "\uff0b": "+",
    "\uff20": "@",
}
"""Digits of all scripts, dashes, spaces of other widths, and what East Asian keyboards write."""
_TABLE = str.maketrans(_CHARACTERS)
_OTHER = re.compile(f"[{re.escape(''.join(_CHARACTERS))}]")
_LONG_DASH = re.compile(r"(?<=\d)[\u2014\u2015](?=\d)")
"""Between words it parts sentences: what stands behind it is no part of what stands before it."""
_ESCAPE = re.compile(r"\\(?:[nrt]|u[0-9A-Fa-f]{4})")
"""A line break, a tab or another character as JSON writes it: its letter is no part of the word behind it."""
_EMPHASIS = re.compile(r"_(?:(?<![\w.@+\\-]_)_*(?=\w)|(?<=[^\W_]_)_*(?![\w@]|\.\w))")
"""Marks of Markdown around words; those within a name, as in `first_last`, belong to it."""


def plain(text: str) -> str:
    """Return the text in one spelling, as long as before."""
    if not text.isascii() and _OTHER.search(text):
        text = text.translate(_TABLE)
    if "\u2014" in text or "\u2015" in text:
        text = _LONG_DASH.sub("-", text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda match: "\n" * len(match[0]), text)
    return _EMPHASIS.sub(lambda match: "*" * len(match[0]), text) if "_" in text else text


def may_hold_any(text: str) -> bool:
    """Tell most texts apart at the speed of the C library: every kind has an @, a digit or a double colon."""
    if "@" in text or "::" in text or any(digit in text for digit in "0123456789"):
        return True
    return not text.isascii() and bool(_OTHER.search(text))
