"""Phone numbers: any run of digits in groups that a country's numbering plan has, told from dates and counts."""

import re
from collections.abc import Iterator
from functools import lru_cache

import phonenumbers

from finetune_trainer.prepare.pii.groups import end_of, length_of
from finetune_trainer.prepare.pii.phone_words import is_of_book, says_phone

_BRACKET = r"(?:(?<!\()|(?=\+?\d{1,6}\)[ ./-]?\d))"
"""One that is open encloses the first group."""
_APART = r"(?<![\w+].)(?<!\d\..)"
_EXTENSION = r"(?=[xX]\d)"
_OF_COUNTRY = rf" ?\(?\d[\d \n\r\t().\-/]{{5,21}}\d(?:{_EXTENSION}|(?!\w))"
WITH_PLUS = rf"[(+](?<![\d_].){_BRACKET}(?:(?<=\+)|\+){_OF_COUNTRY}"
WITH_ZEROS = rf"[(0]{_APART}{_BRACKET}(?:(?<=0)0|(?<=\()00){_OF_COUNTRY}"
NATIONAL = (
    rf"[(\d]{_APART}(?<!\d:.){_BRACKET}(?!(?<=0)0|(?<=\()00)[\d ().\-/]{{6,21}}(?<=\d)"
    rf"(?:{_EXTENSION}|(?!\w|[/-]\d|:\d\d))"
)
_LEAST_DIGITS = 7
_KEPT_NUMBERS = 16384
_DAY = "(?:0?[1-9]|[12][0-9]|3[01])"
_YEAR = r"(?:19|20)\d\d"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_DAY_FIRST = rf"{_DAY}(?P<first>[-/. ]){_DAY}(?P=first){_YEAR}"
_YEAR_FIRST = rf"{_YEAR}(?P<last>[-/.]){_DAY}(?P=last){_DAY}"
_SHORT_YEAR = rf"{_DAY}(?P<mark>[-/.])(?:0?[1-9]|1[0-2])(?P=mark)\d\d(?=\s)"
_NO_PHONE = re.compile(
    rf"(?:{_DAY_FIRST}|{_YEAR_FIRST}|{_SHORT_YEAR}|{_YEAR}-{_YEAR}$|{_BYTE}(?:\.{_BYTE}){{3}}(?!\.))(?!\d)"
)
"""A day, whatever follows it, some years, or four bytes."""
_LATER_DAY = re.compile(rf"\s(?:{_DAY_FIRST.replace('. ]', '.]')}|{_YEAR_FIRST})(?!\d)")
_LONGEST_DAY = 11
_OTHER = re.compile(
    r"\d{1,2}[-/. ]\d{1,2}[-/. ](?:\d\d){1,2}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[ T].*)?|(?:[1-9]?|1\d)\d\.\d+"
)
"""Dates, and numbers with decimals."""
_COUNT = re.compile(r"\d+|[1-9]\d{0,2}(?:\.\d{3})+|\d+/(?:19|20)\d\d")
"""A run of digits, an amount, or the number of a file and its year."""
_HOUR = r"(?:[01]?\d|2[0-4])"
_HOURS = rf"{_HOUR}\.[0-5]\d ?[-/] ?{_HOUR}\.[0-5]\d(?!\d)"
_BARE_HOURS = _HOURS.replace(r"\.", "")
_DECIMAL = r"(?:[1-9]?|1\d)\d\.\d{1,20}"
_RANGE = re.compile(
    rf"{_HOURS}|{_DECIMAL}(?: ?[-/] ?| ){_DECIMAL}(?![\d.])"
    rf"|{_BARE_HOURS}(?:(?!(?: ?[-/.(] ?| )\d)|(?: ?/ ?| ){_BARE_HOURS})"
)
"""Hours from and to, and two numbers with decimals; hours without a mark only if no other digits follow."""
_WITH_ZERO = frozenset({"AT", "BE", "CH", "DE", "FI", "FR", "GB", "IE", "NL", "SE"})
"""Countries where everybody writes the zero before the area; the numbering plan knows numbers without it, too."""
_DECIMALS = re.compile(r"\d+\.\d+")
_THOUSANDS = re.compile(r"\d{3}(?:[ .]\d{3})*")
_PLACES = re.compile(r"\d+(?: ?[-/] ?| )\d{1,3}(?=,\d)")
"""Those of a number with decimals and the beginning of the next: 0,089123 0,5."""
_GROUP = re.compile(r"\d+")
_NUMBER_BEFORE = re.compile(r"\d[\d ()-]{5,20}\d[,/]$")
_OPERAND_BEFORE = re.compile(r"[\w)\]][^\S\n]*\Z")
_LONGEST_BEFORE = 24
_JOINT = re.compile(r" */ *(?=[0(])| +- +(?=[\d(])| +(?=\(?0\d)")
"""What may stand between two numbers, and within one as well."""
_REST = re.compile(r"\(?\d(?:[\d ().\-]|(?<=\d)/(?=[1-9])){5,20}(?<=\d)")


def verify_international(match: re.Match[str], region: str) -> int:
    """Return where a phone number with its country ends, 0 when the candidate is none."""
    if not _may_begin_in_groups(match[0], 1.5):
        return 0
    if _is_summand(match) if "+" in match[0] else _is_part(match, match[0]):
        return 0
    return end_of(
        match,
        lambda text: _is_in_groups(text, 1.5) and _is_in_plan(_plain(text), region),
        least=_LEAST_DIGITS,
        fronts=lambda line: _fronts(line, match, region),
    )


def verify_national(match: re.Match[str], region: str) -> int:
    """Return where a phone number of the region ends, 0 when the candidate is none."""
    if not region or not _may_begin_in_groups(match[0], 2) or _NO_PHONE.match(match[0]):
        return 0  # no country's plan tells what it is
    if _RANGE.match(match.string, match.start()) and not says_phone(match.string, match.start()):
        return 0
    day = _LATER_DAY.search(match[0])
    most = day.start() if day else len(match[0])
    return end_of(
        match,
        lambda text: len(text) <= most and _is_national(text, match, region),
        least=_LEAST_DIGITS,
        fronts=lambda line: _fronts(line, match, region),
    )


def same(value: str, region: str) -> str:
    """Return what all spellings of a number have in common (E.164)."""
    parsed = phonenumbers.parse(_plain(value), region or None)
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _is_national(text: str, match: re.Match[str], region: str) -> bool:
    """Check against the region's numbering plan; what may be another number needs a word that says what it is."""
    if _OTHER.fullmatch(text) or ".." in text or text.count("(") != text.count(")") or not _is_in_groups(text, 2):
        return False
    is_short_of_zero = region in _WITH_ZERO and not text.startswith(("0", "(0"))
    is_doubtful = (
        is_short_of_zero or _COUNT.fullmatch(text) or _is_part(match, text) or is_of_book(match.string, match.start())
    )
    return (not is_doubtful or says_phone(match.string, match.start())) and _is_in_plan(_plain(text), region)


def _may_begin_in_groups(text: str, digits: float) -> bool:
    """Tell at once whether any beginning of a text can be in such groups, before each is tried."""
    total = 0
    for count, group in enumerate(_GROUP.findall(text), start=1):
        total += len(group)
        if total >= max(digits * count, _LEAST_DIGITS):
            return True
    return False


def _is_in_groups(text: str, digits: float) -> bool:
    """Tell a number, of so many digits a group or more, from a column of figures and from a short range."""
    groups = _GROUP.findall(text)
    return sum(map(len, groups)) >= max(digits * len(groups), _LEAST_DIGITS)


def _is_part(match: re.Match[str], number: str) -> bool:
    """Tell whether what the candidate begins with is a part of a path, a code or an amount.

    As in PN-02-1234567, 347-1234567-AB, 1,234 567; not that of two numbers, as in 02 12345678/02 87654321.
    """
    text, start = match.string, match.start()
    mark, other = text[start - 1 : start], text[max(0, start - 2) : start - 1]
    if mark in {",", "/"} and other.isdigit():
        is_alone = not _NUMBER_BEFORE.search(text, max(0, start - _LONGEST_BEFORE), start)
        return is_alone and (mark == "/" or _is_of_amount(match, number))
    if mark == "-" and _DECIMALS.fullmatch(match[0]):
        return True
    return (mark in {"-", "/"} and other.isalnum()) or _goes_on(match)


def _is_of_amount(match: re.Match[str], number: str) -> bool:
    """Tell whether digits behind a comma are thousands or decimals, and not the next column of a table."""
    places = _PLACES.match(match.string, match.start())
    return bool(_THOUSANDS.fullmatch(number)) or (places is not None and places.end() == match.start() + len(number))


def _goes_on(match: re.Match[str]) -> bool:
    """Tell whether a code or a path goes on behind the candidate, and not a name: 347 1234567-Mario."""
    if " " in match[0]:
        return False
    mark, other = match.string[match.end() : match.end() + 1], match.string[match.end() + 1 : match.end() + 2]
    return (mark == "-" and other.isalnum()) or (mark == "/" and other.islower())


def _fronts(line: str, match: re.Match[str], region: str) -> Iterator[str]:
    """Yield what stands before another number in the line, or before a day: 02 1234567 / 06 7654321.

    The candidate may end within the other one, which is looked for in the whole text.
    """
    line = line[: len(_before_day(match))]
    for joint in _JOINT.finditer(line):
        front = line[: joint.start()]
        is_whole = len(_plain(front)) >= _LEAST_DIGITS
        if is_whole and _begins_number(match, joint.end(), _country(front, region)):
            yield front
    yield line


def _begins_number(match: re.Match[str], offset: int, region: str) -> bool:
    """Tell whether the region has a number that begins so far behind the beginning of the candidate."""
    rest = _REST.match(match.string, match.start() + offset)
    if not rest or not region:
        return False
    length = length_of(
        _before_day(rest),
        lambda text: _is_in_groups(text, 2) and _is_in_plan(_plain(text), region),
        least=_LEAST_DIGITS,
    )
    return length > 0


def _before_day(match: re.Match[str]) -> str:
    """Return a candidate up to a day that follows it, which it may end within."""
    day = _LATER_DAY.search(match.string, match.start(), match.end() + _LONGEST_DAY)
    return match[0][: day.start() - match.start()] if day else match[0]


def _country(number: str, region: str) -> str:
    """Return the region whose plan a number without its country follows that stands behind this one."""
    if not _is_international(number):
        return region
    try:
        code = phonenumbers.parse(_plain(number), None).country_code or 0
    except phonenumbers.NumberParseException:
        return region
    return phonenumbers.region_code_for_country_code(code)


def _is_summand(match: re.Match[str]) -> bool:
    """Tell whether the plus adds the candidate to what stands before it: x + 39061234."""
    text, start = match.string, match.start()
    if not match[0].startswith("+ ") or not _OPERAND_BEFORE.search(text, max(0, start - _LONGEST_BEFORE), start):
        return False
    return not says_phone(text, start)


def _is_international(text: str) -> bool:
    return text.lstrip("(").startswith(("+", "00"))


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
