"""Personal data in texts: what is found, and what only looks like it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pii_texts import ALL_FOUND, FOUND, NOTHING

from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.kinds import KINDS
from finetune_trainer.prepare.pii.masking import RowMask
from finetune_trainer.prepare.pii.spelling import plain

FINDER = Finder([kind.name for kind in KINDS], "IT")


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_found(kind, text, value):
    assert [(place.kind, text[place.start : place.end]) for place in FINDER.find(text)] == [(kind, value)]


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it(text):
    assert [(place.kind, text[place.start : place.end]) for place in FINDER.find(text)] == []


@pytest.mark.parametrize(("text", "masked"), ALL_FOUND)
def test_all_are_found_where_several_stand_together(text, masked):
    assert RowMask(FINDER).text(text) == masked


@pytest.mark.parametrize(
    ("region", "text", "values"),
    [
        ("DE", "030 12345678, (030) 12345679 or 0171/1234567", ["030 12345678", "(030) 12345679", "0171/1234567"]),
        ("DE", "Telefon 361 69790", ["361 69790"]),
        ("DE", "pages 3616-9790, 6829 8151 px, 228.572052964344", []),
        ("DE", "IC 0.512-0.634, 0.242106 0.728693, 09.00-13.00/15.00-19.00, 0900-1800", []),
        ("DE", "0212-1234 567", ["0212-1234 567"]),
        ("GB", "020 7946 0958 of 340 000 0000 people", ["020 7946 0958"]),
        ("US", "(650) 253-0000 or 650-253-0001", ["(650) 253-0000", "650-253-0001"]),
        ("US", "booking number 2125551234, confirmation number 2125551234, item number: 2125551234", []),
        ("US", "passport number 2125551234. Number: 2125551234", ["2125551234"]),
        ("FR", "01.12.20.34.56 on 01.12.20 34 56", ["01.12.20.34.56"]),
        ("PL", "at 10:15 12 348 36 95", ["12 348 36 95"]),
        ("DE", "Tel.: 089 123456 / 089 123457", ["089 123456", "089 123457"]),
        ("DE", "030 901820 / 0171 1234567", ["030 901820", "0171 1234567"]),
        ("DE", "030 901820 0171 1234567", ["030 901820", "0171 1234567"]),
        ("DE", "030 901820 / 0171/1234567", ["030 901820", "0171/1234567"]),
        ("", "+39 02 1234567 / 06 7654321", ["+39 02 1234567"]),
        ("DE", "+49 30 901820 (0171) 1234567", ["+49 30 901820", "(0171) 1234567"]),
        ("DE", "030 / 901820, 030 901820 - 12", ["030 / 901820", "030 901820 - 12"]),
        ("DE", "+49 30 1234 0567 2024-03-08", ["+49 30 1234 0567"]),
        ("AT", "Tel. 0512 123456 / 0664 1234567", ["0512 123456", "0664 1234567"]),
        ("IT", "RG 33755/2002, tel. 02 33755/2002", ["02 33755/2002"]),
    ],
)
def test_numbers_are_written_as_in_their_country(region, text, values):
    assert [text[place.start : place.end] for place in Finder(["phone"], region).find(text)] == values


@pytest.mark.parametrize("region", ["IT", "DE", "GB", "US", "FR", "ES"])
@pytest.mark.parametrize(
    "form",
    ["%d/%m/%Y %H:%M", "%d.%m.%Y %H:%M", "%d-%m-%y %H:%M", "%d.%m.%y - %H.%M", "%Y/%m/%d %H:%M", "%Y-%m-%d %H.%M"],
)
def test_times_are_no_phone_numbers(region, form):
    finder = Finder(["phone"], region)
    times = [datetime(2019, 1, 1, 7, 9) + timedelta(days=19 * step, minutes=97 * step) for step in range(200)]
    texts = [f"at {time.strftime(form)} sharp" for time in times]
    assert [text for text in texts if finder.find(text)] == []


def test_only_wanted_kinds_are_found():
    text = "a@example.com, +39 02 1234 5678"
    assert [place.kind for place in Finder(["phone"], "IT").find(text)] == ["phone"]


@given(st.text() | st.text("_\\nu0a@. \uff12\u0663\u2011"))
def test_a_text_of_one_spelling_is_as_long_as_before(text):
    assert len(plain(text)) == len(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "1 ",
        "0.12 ",
        "02 1234567 06 ",
        "99999999. / 06 7654321 ",
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
        "_",
        "a_",
        "_@",
        "\\",
        "\\n1",
        "\\u",
        "+1\n",
        "1\n",
        "4111.",
        "a'",
        "o'",
        "phone order ",
        "order number ",
        "call number 1234567 ",
        "{",
        '{"',
        '{"a":',
        '{"a":1,',
        '{"a":{},',
        '["',
        '{"a":[{"b":1}] ',
        "a@b.it-",
        "+39 347 1234567/",
        "0039 347 1234567/",
        "02 12345678/",
        "4111111111111111-",
        "4111111111111111.",
        '{"\\\\"',
        "\uff12",
        "<x>/1234567 ",
        "tel 3471234567/",
    ],
)
def test_no_text_is_slow(piece):
    RowMask(FINDER).text(piece * 20_000)


@pytest.mark.parametrize("piece", ["1 ", "12 ", "123 ", "1-", "1.1 "])
def test_columns_of_figures_are_not_looked_at_as_cards(piece):
    card = next(kind for kind in KINDS if kind.name == "cardNumber")
    assert card.form.search(piece * 1000) is None
