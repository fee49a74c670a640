"""Personal data in texts: what is found, what only looks like it, and what stands in its place."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.kinds import KINDS
from finetune_trainer.prepare.pii.masking import RowMask

FINDER = Finder([kind.name for kind in KINDS], "IT")
FOUND = [
    ("email", "Write to mario.rossi+shop@mail.example.co.uk, please.", "mario.rossi+shop@mail.example.co.uk"),
    ("email", "<info@example.com>", "info@example.com"),
    ("iban", "IBAN IT60X0542811101000000123456.", "IT60X0542811101000000123456"),
    ("iban", "IBAN: IT60 X054 2811 1010 0000 0123 456 BIC UNCRITMM", "IT60 X054 2811 1010 0000 0123 456"),
    ("iban", "DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
    ("cardNumber", "card 4111 1111 1111 1111 exp", "4111 1111 1111 1111"),
    ("cardNumber", "5500-0000-0000-0004", "5500-0000-0000-0004"),
    ("cardNumber", "amex 378282246310005", "378282246310005"),
    ("fiscalCode", "CF: RSSMRA85T10A562S", "RSSMRA85T10A562S"),
    ("fiscalCode", "cf rssmra85t10a562s ok", "rssmra85t10a562s"),
    ("vatNumber", "P.IVA 00743110157", "00743110157"),
    ("vatNumber", "partita iva: 00743110157", "00743110157"),
    ("vatNumber", "IT00743110157", "IT00743110157"),
    ("vatNumber", "DE136695976", "DE136695976"),
    ("ipAddress", "from 203.0.113.7 at noon", "203.0.113.7"),
    ("ipAddress", "seen at 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334"),
    ("phone", "call +39 02 1234 5678 now", "+39 02 1234 5678"),
    ("phone", "+44 20 7946 0958", "+44 20 7946 0958"),
    ("phone", "0039 347 123 4567", "0039 347 123 4567"),
    ("phone", "cell. 347 1234567", "347 1234567"),
    ("phone", "tel 3471234567", "3471234567"),
]
NOTHING = [
    "order 3471234567 was shipped",
    "on 12/03/2024 and 2024-03-12 10:15",
    "v1.2.3.4 and version 10.20.30.40",
    "127.0.0.1, 0.0.0.0 and 255.255.255.0",
    "IT60X0542811101000000123457",
    "4111 1111 1111 1112",
    "1234 5678 9012 3456",
    "RSSMRA85T10A562T",
    "P.IVA 00743110158",
    "the number 00743110157 alone",
    "user@localhost, @handle, a@b",
    "12:30:45 and 1:2:3",
    "3.14159265358979 and 1,000,000,000",
    "SKU AB12CDEFGHIJKLMNOP",
    "€ 1.234.567,89",
]


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_found(kind, text, value):
    assert [(place.kind, text[place.start : place.end]) for place in FINDER.find(text)] == [(kind, value)]


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it(text):
    assert [(place.kind, text[place.start : place.end]) for place in FINDER.find(text)] == []


def test_only_wanted_kinds_are_found():
    text = "a@example.com, +39 02 1234 5678"
    assert [place.kind for place in Finder(["phone"], "IT").find(text)] == ["phone"]


def test_the_same_value_has_the_same_placeholder_in_all_texts_of_a_row():
    mask = RowMask(FINDER)
    row = {
        "messages": [
            {"role": "user", "content": "I am anna@example.com, or ANNA@example.com. Call +39 02 1234 5678."},
            {"role": "assistant", "content": "Is b@example.com known? We wrote to anna@example.com."},
        ],
        "id": 7,
    }
    assert mask.value(row) == {
        "messages": [
            {"role": "user", "content": "I am <EMAIL_1>, or <EMAIL_1>. Call <PHONE_1>."},
            {"role": "assistant", "content": "Is <EMAIL_2> known? We wrote to <EMAIL_1>."},
        ],
        "id": 7,
    }
    assert mask.found == {"email": 4, "phone": 1}
    assert RowMask(FINDER).text("b@example.com") == "<EMAIL_1>"
    assert RowMask(FINDER).text("4111111111111111") == "<CARD_NUMBER_1>"


PIECES = st.sampled_from([text for _, text, _ in FOUND] + NOTHING + [" ", "\n", ". ", "x"])
TEXTS = st.lists(PIECES, max_size=6).map(" ".join) | st.text(max_size=200)


@given(TEXTS)
@example("+44 20 7946 0958 0039 347 123 4567")
def test_nothing_is_left_to_find(text):
    masked = RowMask(FINDER).text(text)
    assert FINDER.find(masked) == []


@given(TEXTS)
def test_what_is_no_personal_data_stays_as_it_is(text):
    places = FINDER.find(text)
    ends, starts = [0, *(place.end for place in places)], [*(place.start for place in places), len(text)]
    kept = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    masked = RowMask(FINDER).text(text)
    for piece in kept:
        assert piece in masked
        masked = masked[masked.index(piece) + len(piece) :]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a", "1", "1 ", "A1", "a.", "1.", ":", "1:", "+", "(1", "A1 ", "a@", "a@a.", "-1"])
def test_no_text_is_slow(piece):
    FINDER.find(piece * 20_000)
