"""What stands before a run of digits and says whether it is a phone number."""

import re

_THINGS = (
    r"orders?|ordin[ei]|invoices?|fattur[ae]|tickets?|cases?|accounts?|tracking|pratic(?:a|he)|contracts?"
    r"|contratt[oi]|serial|parts?|models?|modell[oi]|references?|polic(?:y|ies)|polizz[ae]|protocoll[oi]|articol[oi]"
)
"""What has a number of its own."""
_FACTS = r"ids?|imei|cod(?:e|es|ic[ei])|counts?|times?|dates?|dat[ae]|timestamps?|durations?|prices?|prezz[oi]|refs?"
"""What else is told of phones."""
_PHONE = (
    r"tel|t[eé]l[eé](?:ph|f)on\w{0,8}|(?:smart|cell)?phones?(?:numbers?|no|nr)?|fax|whatsapp|wa\.me|cell|cellular[ei]"
    r"|mobil|mobiles?|handy"
)
_NUMBER = r"\+?\(?\d[\d ().\-]{5,18}\d(?:\s?[/,;]\s?|\s(?:e|o|or|and)\s)"
_SAYS_PHONE = re.compile(
    rf"(?:(?<![^\W_])(?:(?:{_PHONE})(?:[\W_]{{1,3}}(?!(?:{_THINGS}|{_FACTS})(?![^\W_]))[^\W\d_]{{2,12}})?"
    r"|call|(?:ri)?chiam\w{1,6}|(?P<number>numer[oi]|numbers?))"
    r"[\W_]{0,4}(?:(?:è|is|at|on|al|il|me|mi|us|n|nr|no)\b\W{1,4}){0,2}|(?=\+\d))"
    rf"(?:{_NUMBER}){{0,3}}$",
    re.IGNORECASE,
)
"""A word, and perhaps other phone numbers between it and this one: `Tel. 02 12345678, 3471234567`."""
_NUMBERED = re.compile(rf"(?<![^\W_])(?:{_THINGS}|client[ei])(?![^\W_])[^.,;!?\n]{{0,12}}$", re.IGNORECASE)
_WHOSE = (
    r"my|your|h(?:is|er)|our|their|(?:mi|tu|su)[oa]|(?:mie|tuo|suo)i|[nv]ostr[oi]|loro"
    r"|(?:my|your|h(?:is|er)|our|their|(?:mi|tu|su)o|[nv]ostro|loro)\s(?:new|old|other|nuovo|vecchio|altro)"
)
_REACH = (
    r"call(?:ing)?|(?:ri)?chiam\w{1,6}|contact(?:ing)?|contatt\w{1,5}|dial|text|reach|at|al"
    r"|home|work|office|emergency"
)
_TO = r"(?:[\s,:]{1,2}(?:us|me|ci|at|on|al|il|lo|the|this|following|seguente|questo)){0,4}"
_NOTHING = r"(?:^|\n|[^\w\s./-]|(?<![^\W_])[./-]|[./-]\s)"
_OF_PERSON = re.compile(
    rf"(?:{_NOTHING}|(?<![^\W_])(?:{_WHOSE}|(?:{_REACH}){_TO})(?=[\W_]))[\s_]{{0,3}}\Z", re.IGNORECASE
)
"""What stands before `number` where that is a phone's: nothing, whose it is, or what is done with phones."""
_BOOK = re.compile(r"\bIS[BS]N(?:-1[03])?[\s:]{0,3}$", re.IGNORECASE)
_BEFORE = 100
_BEFORE_WORD = 48
"""Characters that are looked at."""


def says_phone(text: str, start: int) -> bool:
    """Tell whether the words before `start` announce a phone number."""
    said = _SAYS_PHONE.search(text, max(0, start - _BEFORE), start)
    if said is None:
        return False
    if said["number"] is None:
        return True
    first, end = max(0, said.start() - _BEFORE_WORD), said.start()
    return bool(_OF_PERSON.search(text, first, end)) and not _NUMBERED.search(text, first, end)


def is_of_book(text: str, start: int) -> bool:
    """Tell whether the number of a book is announced."""
    return bool(_BOOK.search(text, max(0, start - _BEFORE_WORD), start))
