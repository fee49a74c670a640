"""The kinds of personal data that are known, each with the form it is written in and the check that it must pass.

A form alone would take order numbers for phone numbers and versions for addresses. So every candidate is verified:
check digits by python-stdnum, numbering plans by phonenumbers, addresses by the standard library. Forms repeat at
most a fixed number of times, so that no text makes them slow.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from stdnum import iban, luhn
from stdnum.eu import vat
from stdnum.it import codicefiscale, iva

Verify = Callable[[re.Match[str], str], int]
"""Takes a candidate and the region of phone numbers; returns where what it found ends, 0 when it is nothing."""


@dataclass(frozen=True)
class Kind:
    """A kind of personal data."""

    name: str
    form: re.Pattern[str]
    verify: Verify


def _email(match: re.Match[str], region: str) -> int:
    local = match[0].partition("@")[0]
    return 0 if local.startswith(".") or local.endswith(".") or ".." in local else match.end()


def _iban(match: re.Match[str], region: str) -> int:
    """Try shorter and shorter: words in capitals that follow look like a part of it."""
    text = match[0]
    while len(text) >= 15:
        if iban.is_valid(text):
            return match.start() + len(text)
        text = text[:-1].rstrip()
    return 0


_CARDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}"
)
"""Beginnings and lengths by issuer (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners, JCB."""


def _card_number(match: re.Match[str], region: str) -> int:
    digits = re.sub(r"\D", "", match[0])
    return match.end() if _CARDS.fullmatch(digits) and luhn.is_valid(digits) else 0


def _fiscal_code(match: re.Match[str], region: str) -> int:
    return match.end() if codicefiscale.is_valid(match[0]) else 0


_VAT_WORD = re.compile(r"(?:p\.?\s?iva|partita\s+iva|vat|iva)\W{0,12}$", re.IGNORECASE)


def _vat_number(match: re.Match[str], region: str) -> int:
    """Check a number with its country, or an Italian one without it behind a word that says what it is."""
    text = match[0].replace(" ", "")
    if text.isdigit():
        is_named = _VAT_WORD.search(match.string, max(0, match.start() - 40), match.start())
        return match.end() if is_named and iva.is_valid(text) else 0
    return match.end() if vat.is_valid(text) else 0


_VERSION_WORD = re.compile(r"(?:\bv|ver\.?|version[ei]?|release|build)\s{0,2}$", re.IGNORECASE)


def _ip_address(match: re.Match[str], region: str) -> int:
    if _VERSION_WORD.search(match.string, max(0, match.start() - 12), match.start()):
        return 0
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return 0
    is_nobody = address.is_loopback or address.is_unspecified or address.is_multicast or match[0].startswith("255.")
    return 0 if is_nobody else match.end()


_PHONE_WORD = re.compile(
    r"(?:tel|phone|call|mobile|cell|fax|whatsapp|numero|number|telefono|cellulare|chiam\w{1,6})\W{0,4}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{1,2}[-/. ]\d{1,2}[-/. ](?:\d\d){1,2}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[ T].*)?")


def _phone(match: re.Match[str], region: str) -> int:
    """Try shorter and shorter, a group of digits at a time: numbers that follow look like a part of it."""
    text = match[0]
    if not region and not text.startswith(("+", "00")):
        return 0  # no country's plan tells what it is
    while len(text) >= 7:
        if _is_phone(text, match, region):
            return match.start() + len(text)
        text = _LAST_GROUP.sub("", text)
    return 0


_GROUP = re.compile(r"\d+")
_KEPT_NUMBERS = 16384
_LAST_GROUP = re.compile(r"(?:[^\d]+|^)\d+$")


def _is_phone(text: str, match: re.Match[str], region: str) -> bool:
    """Check against the country's numbering plan; a bare run of digits also needs a word that says what it is."""
    is_international = text.startswith(("+", "00"))
    is_bare = text.isdigit() and not is_international
    groups = _GROUP.findall(text)
    if _DATE.fullmatch(text) or sum(map(len, groups)) < 2 * len(groups):
        return False  # nobody writes a number digit by digit, as columns of figures are
    if is_bare and not _PHONE_WORD.search(match.string, max(0, match.start() - 20), match.start()):
        return False
    digits = re.sub(r"\D", "", text)
    return _is_in_plan(f"+{digits.removeprefix('00')}" if is_international else digits, region)


@lru_cache(_KEPT_NUMBERS)
def _is_in_plan(number: str, region: str) -> bool:
    """Check a number without punctuation; a tenth of a millisecond, and tables have the same ones again and again."""
    try:
        parsed = phonenumbers.parse(number, None if number.startswith("+") else region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(parsed)


_FORMS: dict[str, tuple[str, Verify]] = {
    "email": (r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", _email),
    "iban": (r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)", _iban),
    "cardNumber": (r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])", _card_number),
    "fiscalCode": (
        r"(?<!\w)[A-Za-z]{6}(?:[0-9L-Vl-v]{2}[A-Za-z]){2}[0-9L-Vl-v]{3}[A-Za-z](?!\w)",
        _fiscal_code,
    ),
    "vatNumber": (r"(?<!\w)(?:[A-Z]{2} ?[A-Z0-9]{8,12}|\d{11})(?!\w)", _vat_number),
    "ipAddress": (r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]{3,39})(?![\w:]|\.\d)", _ip_address),
    "phone": (r"(?<![\w.,/-])(?:\+|00)?\(?\d[\d ().\-/]{5,20}\d(?![\w/-])", _phone),
}
KINDS = tuple(Kind(name, re.compile(form), verify) for name, (form, verify) in _FORMS.items())
"""In this order: of two that overlap at equal length, the earlier one is meant."""
