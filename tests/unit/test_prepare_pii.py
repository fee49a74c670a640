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
    ("phone", "Cell.347 1234567", "347 1234567"),
    ("phone", "+1 650-253-0000x123", "+1 650-253-0000"),
    ("phone", "+39\u00a0347\u00a01234567", "+39\u00a0347\u00a01234567"),
    ("phone", "il mio numero è 3471234567", "3471234567"),
    ("phone", "call me at 3471234567", "3471234567"),
    ("email", "Email.....mario@example.com", "mario@example.com"),
    ("email", "mario@example.com-Ufficio", "mario@example.com"),
    ("iban", "it60x0542811101000000123456", "it60x0542811101000000123456"),
    ("iban", "IT60\u00a0X054 2811 1010 0000 0123 456 grazie mille", "IT60\u00a0X054 2811 1010 0000 0123 456"),
    ("cardNumber", "4111 1111 1111 1111 12/27", "4111 1111 1111 1111"),
    ("cardNumber", "4111111111111111 3 times", "4111111111111111"),
    ("cardNumber", "Maestro 6759649826438453", "6759649826438453"),
    ("cardNumber", "UnionPay 6212345678901232", "6212345678901232"),
    ("fiscalCode", "RSS MRA 85T10 A562S", "RSS MRA 85T10 A562S"),
    ("vatNumber", "partita IVA è 00743110157", "00743110157"),
    ("vatNumber", "P.IVA n. 00743110157", "00743110157"),
    ("vatNumber", "P.IVA/C.F. 00743110157", "00743110157"),
    ("vatNumber", "it00743110157", "it00743110157"),
    ("ipAddress", "http://203.0.113.7:8080/", "203.0.113.7"),
    ("ipAddress", "203.0.113.7: refused", "203.0.113.7"),
    ("ipAddress", "IP:203.0.113.7", "203.0.113.7"),
    ("ipAddress", "::ffff:203.0.113.7", "::ffff:203.0.113.7"),
    ("ipAddress", "2001:db8::8a2e: refused", "2001:db8::8a2e"),
    ("ipAddress", "IPv6:2001:db8::8a2e", "2001:db8::8a2e"),
]
NOTHING = [
    "order 3471234567 was shipped",
    "on 12/03/2024 and 2024-03-12 10:15",
    "v1.2.3.4 and version 10.20.30.40, version: 10.20.30.40",
    "chapter 1.2.3.4.5 of 2024-11-29T10:15:30.123456",
    "he arriva 00743110157, in de 136695976 words",
    "3.3471234567 of them",
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


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("10.1.1.12 and 10.1.11.2", "<IP_ADDRESS_1> and <IP_ADDRESS_2>"),
        ("2001:db8::1 and 2001:DB8:0::1", "<IP_ADDRESS_1> and <IP_ADDRESS_1>"),
        ("mario.rossi@x.it and mariorossi@x.it", "<EMAIL_1> and <EMAIL_2>"),
        ("+39 347 1234567, 0039 347 1234567 and 347 1234567", "<PHONE_1>, <PHONE_1> and <PHONE_1>"),
        ("4111 1111 1111 1111 and 4111-1111-1111-1111", "<CARD_NUMBER_1> and <CARD_NUMBER_1>"),
    ],
)
def test_spellings_of_one_value_have_one_placeholder_and_others_another(text, masked):
    assert RowMask(FINDER).text(text) == masked


def test_numbers_are_masked_too_and_names_tell_what_values_are():
    row = {
        "phone": "3471234567",
        "card": 4111111111111111,
        "more": {"cell": [3471234568]},
        "at": 1700000000,
        "ok": True,
    }
    assert RowMask(FINDER).value(row) == {
        "phone": "<PHONE_1>",
        "card": "<CARD_NUMBER_1>",
        "more": {"cell": ["<PHONE_2>"]},
        "at": 1700000000,
        "ok": True,
    }
    assert RowMask(FINDER).value({"a@example.com": "1"}) == {"a@example.com": "1"}


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
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "1 ",
        "A1",
        "a.",
        "1.",
        ":",
        "1:",
        "+",
        "(1",
        "A1 ",
        "a@",
        "a@a.",
        "-1",
        "ab12 ",
        "tel 1234567 ",
        "iva n. ",
        "1.1.1.1:",
    ],
)
def test_no_text_is_slow(piece):
    FINDER.find(piece * 20_000)
