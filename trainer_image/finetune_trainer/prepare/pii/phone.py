"""Phone numbers: any run of digits in groups that a country's numbering plan has, told from dates and counts."""

import re
from functools import lru_cache

import phonenumbers

from finetune_trainer.prepare.pii.groups import SPACES, end_of

FORM = rf"(?<![\w,/-])(?<!\d\.)(?:\+|00)?\(?\d[\d{SPACES}().\-/]{{5,20}}\d(?:(?=[xX]\d)|(?![\w/-]))"
_LEAST_DIGITS = 7
_KEPT_NUMBERS = 16384
_WORD = re.compile(
    r"(?:tel|phones?|call|mobile|cell|fax|whatsapp|numero|numeri|numbers?|telefon[oi]|cellular[ei]|chiam\w{1,6})"
    r"[\W_]{0,4}(?:(?:è|is|at|on|al|il|me|mi|us|n|nr|no)\b\W{1,4}){0,2}$",
    re.IGNORECASE,
)
_OTHER = re.compile(r"\d{1,2}[-/. ]\d{1,2}[-/. ](?:\d\d){1,2}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[ T].*)?|\d\.\d+")
"""Dates, and numbers with decimals."""
_GROUP = re.compile(r"\d+")


def verify(match: re.Match[str], region: str) -> int:
    """Return where a phone number ends, 0 when the candidate is none."""
    if not region and not _is_international(match[0]):
        return 0  # no country's plan tells what it is
    return end_of(match, lambda text: _is_phone(text, match, region), least=_LEAST_DIGITS)


def same(value: str, region: str) -> str:
    """Return what all spellings of a number have in common (E.164)."""
    parsed = phonenumbers.parse(_plain(value), region or None)
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _is_phone(text: str, match: re.Match[str], region: str) -> bool:
    """Check against the country's numbering plan; a bare run of digits also needs a word that says what it is."""
    is_bare = text.isdigit() and not _is_international(text)
    groups = _GROUP.findall(text)
    if _OTHER.fullmatch(text) or sum(map(len, groups)) < 2 * len(groups):
        return False  # nobody writes a number digit by digit, as columns of figures are
    if is_bare and not _WORD.search(match.string, max(0, match.start() - 40), match.start()):
        return False
    return _is_in_plan(_plain(text), region)


def _is_international(text: str) -> bool:
    return text.startswith(("+", "00"))


def _plain(text: str) -> str:
    digits = re.sub(r"\D", "", text)
    return f"+{digits.removeprefix('00')}" if _is_international(text) else digits


@lru_cache(_KEPT_NUMBERS)
def _is_in_plan(number: str, region: str) -> bool:
    """Check a number without punctuation; a tenth of a millisecond, and tables have the same ones again and again."""
    try:
        parsed = phonenumbers.parse(number, None if number.startswith("+") else region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(parsed)
