"""The kinds of personal data that are known, each with the form it is written in and the check that it must pass.

A form alone would take order numbers for phone numbers and versions for addresses. So every candidate is verified:
check digits by python-stdnum, numbering plans by phonenumbers, addresses by the standard library. Forms repeat at
most a fixed number of times, so that no text makes them slow. They are looked for in texts of one spelling
(`spelling.py`). A form begins with what its first character is and looks back only then, which the `re` module
searches twice as fast as the other way round.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum import iban, luhn
from stdnum.eu import vat
from stdnum.it import codicefiscale, iva

from finetune_trainer.prepare.pii import phone
from finetune_trainer.prepare.pii.groups import end_of

Verify = Callable[[re.Match[str], str], int]
"""Takes a candidate and the region of phone numbers; returns where what it found ends, 0 when it is nothing."""
Same = Callable[[str, str], str]
"""Takes what was found and the region; returns what all spellings of the same value have in common."""


@dataclass(frozen=True)
class Kind:
    """A kind of personal data."""

    name: str
    sign: str
    """What stands in every text that holds one."""
    form: re.Pattern[str]
    verify: Verify
    same: Same


def _characters(value: str, region: str) -> str:
    return re.sub(r"[\W_]", "", value).casefold()


_NO_PART = re.compile(r"^d'|\\")


def _same_email(value: str, region: str) -> str:
    """Return an address without marks of Markdown; `d'anna@x.it` is mostly that of `anna@x.it`."""
    return _NO_PART.sub("", value.casefold())


_PICTURE = re.compile(r"@\dx\.(?:png|jpe?g|gif|webp)$", re.IGNORECASE)
"""`icon@2x.png` is a file."""


def _email(match: re.Match[str], region: str) -> int:
    return 0 if _PICTURE.search(match[0]) else match.end()


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


_IN_GROUPS = re.compile(
    r"\d{13,19}|\d{4}(?:[ -]\d{4}){2}[ -]\d{1,7}|\d{4}(?:[ -]\d{4}){3}[ -]\d{1,3}|\d{4}[ -]\d{6}[ -]\d{4,5}"
    r"|\d{6}[ -]\d{7,13}|\d{8}[ -]\d{8}|\d{4}(?:\.\d{4}){3}"
    r"|(?=[^\n\t]*[\n\t][^\n\t]*$)\d{4}(?:[ \n\t-]\d{4}){3}"
)
"""As cards are written, with one line break at most; a phone number and the year behind it have other groups."""


def _is_card(text: str) -> bool:
    if not _IN_GROUPS.fullmatch(text.replace("  ", " ")):
        return False
    digits = re.sub(r"\D", "", text)
    return bool(_CARDS.fullmatch(digits)) and luhn.is_valid(digits)


def _fiscal_code(match: re.Match[str], region: str) -> int:
    return match.end() if codicefiscale.is_valid(_characters(match[0], region)) else 0


_VAT_WORD = re.compile(
    r"(?<![^\W_])(?:p\.?\s?iva|p\.\s?i\.|partita[\s_]*iva|vat|iva|codice[\s_]*fiscale|(?:tax|fiscal)[\s_]*code|c\.?\s?f\.?)"
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


_OF_ITALY = re.compile(r"it(?=\d{11}$)")


def _without_italy(value: str, region: str) -> str:
    """Return a VAT number; an Italian one is written with its country or, behind a word, without it."""
    return _OF_ITALY.sub("", _characters(value, region))


_VERSION_WORD = re.compile(r"(?:\bv|ver\.?|version[ei]?|release|build)[\s:=]{0,3}$", re.IGNORECASE)


_IN_USE = [ipaddress.ip_network(network) for network in ("2000::/3", "fc00::/7", "fe80::/10", "64:ff9b::/96")]
_INDEX = re.compile(r"[\w)\]]\[$")


def _is_code(address: ipaddress.IPv4Address | ipaddress.IPv6Address, match: re.Match[str]) -> bool:
    """Tell whether what could be an IPv6 address is rather code: `A::B`, `feed::bed`, `x[1::2]`, `::add1(1)`."""
    if address.version == 4 or "." in match[0]:
        return False
    if not any(address in network for network in _IN_USE) or not re.search(r"\d", match[0]):
        return True
    return bool(_INDEX.search(match.string, max(0, match.start() - 2), match.start()))


def _ip_address(match: re.Match[str], region: str) -> int:
    if _VERSION_WORD.search(match.string, max(0, match.start() - 12), match.start()):
        return 0
    text = match[0] if match[0].endswith("::") else match[0].rstrip(":")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    is_nobody = address.is_loopback or address.is_unspecified or address.is_multicast or text.startswith("255.")
    return 0 if is_nobody or _is_code(address, match) else match.start() + len(text)


def _same_address(value: str, region: str) -> str:
    return str(ipaddress.ip_address(value))


_OMOCODE = "[0-9L-Vl-v]"
"""A digit of a fiscal code, or the letter that stands for it where two people would have the same code."""
_FORMS: tuple[tuple[str, str, str, Verify, Same], ...] = (
    (
        "email",
        "@",
        r"[\w%+-](?:(?<![\w%+-].)|(?<=[A-Za-z]{2}-.))[\w%+-]{0,63}"
        r"(?:(?:\\?\.|(?:\\[_+-]){1,3}|(?<=\b[OoDd])')[\w%+-]{1,64}){0,9}"
        r"@(?:[\w-]{1,63}\.){1,8}(?:xn--[A-Za-z0-9-]{2,40}"
        r"|[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]{2,24}|[^\W\d_A-Za-z]{2,24})(?![A-Za-z0-9])",
        _email,
        _same_email,
    ),
    (
        "iban",
        "",
        r"[A-Za-z](?<!\w.)[A-Za-z][ -]?\d{2}(?:[ \n\t-]?[A-Za-z0-9]){11,30}(?!\w)",
        _iban,
        _characters,
    ),
    (
        "cardNumber",
        "",
        r"\d(?=\d{3})(?<!\w.)(?<!x>[.-].)(?:(?<!\d[.-].)|(?<=\d{13}[.-].))"
        r"(?:(?:  |[ .\n\t-])?\d){12,18}(?!\w|-\d(?!\d{12}))",
        _card_number,
        _characters,
    ),
    (
        "fiscalCode",
        "",
        rf"[A-Za-z](?<!\w.)[A-Za-z]{{2}}[ -]?[A-Za-z]{{3}}[ -]?{_OMOCODE}{{2}}[A-Za-z]{_OMOCODE}{{2}}"
        rf"[ -]?[A-Za-z]{_OMOCODE}{{3}}[A-Za-z](?!\w)",
        _fiscal_code,
        _characters,
    ),
    (
        "vatNumber",
        "",
        r"[A-Za-z\d](?<!\w.)(?:(?<=\d)\d{10}|(?<=[A-Z])[A-Z] [A-Z0-9]{8,12}"
        r"|(?<=[A-Za-z])[A-Za-z](?=[A-Za-z]{0,2}\d)[A-Za-z0-9]{8,12})(?!\w)",
        _vat_number,
        _without_italy,
    ),
    ("ipAddress", ".", r"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)", _ip_address, _same_address),
    (
        "ipAddress",
        ":",
        r"[0-9A-Fa-f:](?:(?<=IPv6:.)|(?<![\w.].)(?<![0-9A-Fa-f:]:.))"
        r"(?:(?<=:)|[0-9A-Fa-f]{0,3}:)(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{1,38}"
        r"(?:\d{1,3}(?:\.\d{1,3}){3})?(?!\w|\.\d)",
        _ip_address,
        _same_address,
    ),
    ("phone", "+", phone.WITH_PLUS, phone.verify_international, phone.same),
    ("phone", "00", phone.WITH_ZEROS, phone.verify_international, phone.same),
    ("phone", "", phone.NATIONAL, phone.verify_national, phone.same),
)
KINDS = tuple(Kind(name, sign, re.compile(form), verify, same) for name, sign, form, verify, same in _FORMS)
"""In this order: of two that overlap at equal length, the earlier one is meant."""
