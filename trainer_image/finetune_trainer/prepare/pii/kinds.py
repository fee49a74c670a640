"""The kinds of personal data that are known, each with the form it is written in and the check that it must pass.

A form alone would take order numbers for phone numbers and versions for addresses. So every candidate is verified:
check digits by python-stdnum, numbering plans by phonenumbers, addresses by the standard library. Forms repeat at
most a fixed number of times, so that no text makes them slow.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum import iban, luhn
from stdnum.eu import vat
from stdnum.it import codicefiscale, iva

from finetune_trainer.prepare.pii import phone
from finetune_trainer.prepare.pii.groups import SPACES, end_of

Verify = Callable[[re.Match[str], str], int]
"""Takes a candidate and the region of phone numbers; returns where what it found ends, 0 when it is nothing."""
Same = Callable[[str, str], str]
"""Takes what was found and the region; returns what all spellings of the same value have in common."""


@dataclass(frozen=True)
class Kind:
    """A kind of personal data."""

    name: str
    form: re.Pattern[str]
    verify: Verify
    same: Same


def _characters(value: str, region: str) -> str:
    return re.sub(r"[\W_]", "", value).casefold()


def _in_lower_case(value: str, region: str) -> str:
    return value.casefold()


def _email(match: re.Match[str], region: str) -> int:
    return match.end()


def _iban(match: re.Match[str], region: str) -> int:
    return end_of(match, lambda text: bool(iban.is_valid(_characters(text, region))), least=15)


_CARDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}|220[0-4]\d{12}"
)
"""Beginnings and lengths by issuer (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners, JCB,
UnionPay, Maestro, Mir."""


def _card_number(match: re.Match[str], region: str) -> int:
    return end_of(match, _is_card, least=13)


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return bool(_CARDS.fullmatch(digits) and luhn.is_valid(digits))


def _fiscal_code(match: re.Match[str], region: str) -> int:
    return match.end() if codicefiscale.is_valid(match[0]) else 0


_VAT_WORD = re.compile(
    r"(?<![^\W_])(?:p\.?\s?iva|partita\s+iva|vat|iva|codice\s+fiscale|c\.?\s?f\.?)"
    r"(?:[\W_]|(?:è|is|id|n|nr|no|num|numero|numbers?|code|e|c|f|cf|codice|fiscale)(?![^\W_])){0,14}$",
    re.IGNORECASE,
)


def _vat_number(match: re.Match[str], region: str) -> int:
    """Check a number with its country, or an Italian one without it behind a word that says what it is."""
    text = match[0]
    if text.isdigit():
        is_named = _VAT_WORD.search(match.string, max(0, match.start() - 40), match.start())
        return match.end() if is_named and iva.is_valid(text) else 0
    return match.end() if vat.is_valid(_characters(text, region)) else 0


_VERSION_WORD = re.compile(r"(?:\bv|ver\.?|version[ei]?|release|build)[\s:=]{0,3}$", re.IGNORECASE)


def _ip_address(match: re.Match[str], region: str) -> int:
    if _VERSION_WORD.search(match.string, max(0, match.start() - 12), match.start()):
        return 0
    text = match[0] if match[0].endswith("::") else match[0].rstrip(":")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    is_nobody = address.is_loopback or address.is_unspecified or address.is_multicast or text.startswith("255.")
    return 0 if is_nobody else match.start() + len(text)


def _same_address(value: str, region: str) -> str:
    return str(ipaddress.ip_address(value))


_FOUR = r"\d{1,3}(?:\.\d{1,3}){3}"
_PART = "[0-9A-Fa-f]{0,4}:"
_OMOCODE = "[0-9L-Vl-v]"
"""A digit of a fiscal code, or the letter that stands for it where two people would have the same code."""
_FORMS: tuple[tuple[str, str, Verify, Same], ...] = (
    (
        "email",
        r"(?<![\w%+-])[\w%+-]{1,64}(?:\.[\w%+-]{1,64}){0,9}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?!\w)",
        _email,
        _in_lower_case,
    ),
    ("iban", rf"(?<!\w)[A-Za-z]{{2}}\d{{2}}(?:[{SPACES}]?[A-Za-z0-9]){{11,30}}(?!\w)", _iban, _characters),
    ("cardNumber", rf"(?<![\w.-])\d(?:[{SPACES}-]?\d){{12,18}}(?![\w-])", _card_number, _characters),
    (
        "fiscalCode",
        rf"(?<!\w)[A-Za-z]{{3}} ?[A-Za-z]{{3}} ?{_OMOCODE}{{2}}[A-Za-z]{_OMOCODE}{{2}}"
        rf" ?[A-Za-z]{_OMOCODE}{{3}}[A-Za-z](?!\w)",
        _fiscal_code,
        _characters,
    ),
    (
        "vatNumber",
        r"(?<!\w)(?:[A-Za-z]{2}(?=[A-Za-z]{0,2}\d)[A-Za-z0-9]{8,12}|[A-Z]{2} [A-Z0-9]{8,12}|\d{11})(?!\w)",
        _vat_number,
        _characters,
    ),
    ("ipAddress", rf"(?<![\w.]){_FOUR}(?!\w|\.\d)", _ip_address, _same_address),
    (
        "ipAddress",
        rf"(?:(?<=IPv6:)|(?<![\w.])(?<![0-9A-Fa-f:]:))(?={_PART}{_PART})[0-9A-Fa-f:]{{2,39}}(?:{_FOUR})?(?!\w|\.\d)",
        _ip_address,
        _same_address,
    ),
    ("phone", phone.FORM, phone.verify, phone.same),
)
KINDS = tuple(Kind(name, re.compile(form), verify, same) for name, form, verify, same in _FORMS)
"""In this order: of two that overlap at equal length, the earlier one is meant."""
