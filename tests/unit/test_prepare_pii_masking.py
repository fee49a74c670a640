"""What stands in the place of personal data, in texts and values of all kinds."""

import itertools
import json
import sys
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pii_texts import FOUND, NOTHING

from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.kinds import KINDS
from finetune_trainer.prepare.pii.masking import RowMask

FINDER = Finder([kind.name for kind in KINDS], "IT")


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
        (r"mario\_rossi@x.it and mario_rossi@x.it", "<EMAIL_1> and <EMAIL_1>"),
        ("la mail d'anna@x.it: anna@x.it, D'Anna@x.it", "la mail <EMAIL_1>: <EMAIL_1>, <EMAIL_1>"),
        ("P.IVA 01114601006, fattura a IT01114601006", "P.IVA <VAT_NUMBER_1>, fattura a <VAT_NUMBER_1>"),
        ("IT 60 X 05428 11101 000000123456, IT60X0542811101000000123456", "<IBAN_1>, <IBAN_1>"),
        ("4111 1111 1111 1111 and 4111-1111-1111-1111", "<CARD_NUMBER_1> and <CARD_NUMBER_1>"),
    ],
)
def test_spellings_of_one_value_have_one_placeholder_and_others_another(text, masked):
    assert RowMask(FINDER).text(text) == masked


def test_work_is_in_proportion_to_the_values_of_a_row():
    def calls(values: int) -> int:
        text, count = ", ".join(f"user{number}@example.com" for number in range(values)), itertools.count()
        sys.setprofile(lambda *_: next(count))
        masked = RowMask(FINDER).text(text)
        sys.setprofile(None)
        assert masked.endswith(f"<EMAIL_{values}>")
        return next(count)

    assert calls(3200) < 20 * calls(200)


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


def test_names_in_objects_are_masked_and_those_of_columns_stay():
    row = {"a@example.com": {"b@example.com": "1", "c": "b@example.com"}}
    assert RowMask(FINDER).row(row) == {"a@example.com": {"<EMAIL_1>": "1", "c": "<EMAIL_1>"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phone1", "3471234567"),
        ("phone_2", "3471234567"),
        ("phoneNumber", 3471234567),
        ("number", 3471234567),
        ("myNumber", 3471234567),
        ("cellulare1", "3471234567"),
        ("telefono_cliente", "3471234567"),
        ("customerPhoneHome", "3471234567"),
        ("phone", 393471234567.0),
        ("phone", Decimal("3471234567")),
        ("phone", b"3471234567"),
        ("phone", ("3471234567",)),
        ("note", "tel. 3471234567 \xe8".encode("latin-1")),
        ("partitaIva", "00743110157"),
        ("codiceFiscale", "00743110157"),
        ("partita_iva_2", "00743110157"),
        ("taxCode", "00743110157"),
    ],
)
def test_names_of_fields_and_types_of_values_that_say_what_they_are(name, value):
    mask = RowMask(FINDER)
    mask.row({name: value})
    assert mask.found.total() == 1


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"phone": {"value": "3471234567"}}, {"phone": {"value": "<PHONE_1>"}}),
        ({"phones": {"home": 3471234567, "id": 3471234567}}, {"phones": {"home": "<PHONE_1>", "id": 3471234567}}),
        ({"phones": [{"of": "Anna", "number": "3471234567"}]}, {"phones": [{"of": "Anna", "number": "<PHONE_1>"}]}),
        ({"phone": {"home": {"value": 3471234567}}}, {"phone": {"home": {"value": "<PHONE_1>"}}}),
        ({"partitaIva": {"value": "00743110157"}}, {"partitaIva": {"value": "<VAT_NUMBER_1>"}}),
        ({"user": {"number": "3471234567"}}, {"user": {"number": "<PHONE_1>"}}),
        ({"key": "phone", "value": "3471234567"}, {"key": "phone", "value": "<PHONE_1>"}),
        ({"tags": [{"Key": "phone", "Value": 3471234567}]}, {"tags": [{"Key": "phone", "Value": "<PHONE_1>"}]}),
        (
            {"name": "phone", "type": "text", "value": [3471234567]},
            {"name": "phone", "type": "text", "value": ["<PHONE_1>"]},
        ),
        ({"key": "order", "value": "3471234567"}, {"key": "order", "value": "3471234567"}),
        (
            {"phone": {"price": 3471234567}, "x": {"value": 3471234567}},
            {"phone": {"price": 3471234567}, "x": {"value": 3471234567}},
        ),
        ({"version": {"value": "10.1.1.12"}}, {"version": {"value": "10.1.1.12"}}),
    ],
)
def test_names_above_and_beside_a_value_tell_what_it_is(value, masked):
    assert RowMask(FINDER).value(value) == masked
    assert RowMask(FINDER).row(value) == masked
    assert json.loads(RowMask(FINDER).text(json.dumps(value))) == masked


def test_keys_of_a_column_of_maps_tell_what_their_values_are():
    maps = [[("phone", "3471234567"), ("order", "3471234568")], [("3471234569", "tel")]]
    rows = pa.table({"about": pa.array(maps, pa.map_(pa.string(), pa.string()))}).to_pylist()
    assert [RowMask(FINDER).row(row) for row in rows] == [
        {"about": [["phone", "<PHONE_1>"], ["order", "3471234568"]]},
        {"about": [["3471234569", "tel"]]},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order_number", "3471234567"),
        ("orderNumber", 3471234567),
        ("customer_number", 3471234567),
        ("totalNumber", 3471234567),
        ("phone_id", "3471234567"),
        ("call_id", "3471234567"),
        ("callTime", 3471234567),
        ("phone", 3471234567.5),
        ("phone", float("nan")),
        ("phone", Decimal("NaN")),
        ("picture", bytes(range(256))),
    ],
)
def test_values_that_their_names_say_are_something_else(name, value):
    mask = RowMask(FINDER)
    masked = mask.row({name: value})[name]
    assert masked is value or masked == value
    assert not mask.found


JSON_TEXTS = [
    (
        '{"note": "Reach him:\\nmario@example.com\\n+39 347 1234567"}',
        '{"note": "Reach him:\\n<EMAIL_1>\\n<PHONE_1>"}',
    ),
    ('{"card": 4111111111111111, "price": 1.10}', '{"card": "<CARD_NUMBER_1>", "price": 1.10}'),
    ('{\n  "phone" : 393471234567.0,\n  "ids": [ 1, 2 ]\n}', '{\n  "phone" : "<PHONE_1>",\n  "ids": [ 1, 2 ]\n}'),
    ('[4111111111111111, "anna@example.com"]\n', '["<CARD_NUMBER_1>", "<EMAIL_1>"]\n'),
    ('Here:\n```json\n{"phones": ["3471234567"]}\n```', 'Here:\n```json\n{"phones": ["<PHONE_1>"]}\n```'),
    ('<tool_call>{"a": {"tel": 3471234567}}</tool_call>', '<tool_call>{"a": {"tel": "<PHONE_1>"}}</tool_call>'),
    ('{"a": "{\\"card\\": 4111111111111111}"}', '{"a": "{\\"card\\": \\"<CARD_NUMBER_1>\\"}"}'),
    ('{"anna@example.com": 1, "to": "ANNA@example.com"}', '{"<EMAIL_1>": 1, "to": "<EMAIL_1>"}'),
    ('{"a": "\\u00e8 anna\\u0040example.com"}', '{"a": "\\u00e8 <EMAIL_1>"}'),
    ('{"a": "è anna@example.com"}', '{"a": "è <EMAIL_1>"}'),
    ('{"id": 1}\n{"id": "anna@example.com"}', '{"id": 1}\n{"id": "<EMAIL_1>"}'),
    ('a@example.com, {"b": "b@example.com"}, c@example.com', '<EMAIL_1>, {"b": "<EMAIL_2>"}, <EMAIL_3>'),
    ('{"a": [{"phone": "x"}, {"code": 3471234567}]}', '{"a": [{"phone": "x"}, {"code": 3471234567}]}'),
    ('{"phone": {"x": 1}, "code": 3471234567}', '{"phone": {"x": 1}, "code": 3471234567}'),
    ('{ "a": "anna@example.com", oops', '{ "a": "<EMAIL_1>", oops'),
    ("tel [3471234567]", "tel [<PHONE_1>]"),
    ('{"big": ' + "1" * 5000 + ', "a": "anna@example.com"}', '{"big": ' + "1" * 5000 + ', "a": "<EMAIL_1>"}'),
    ('{"a":' * 2000 + ' "anna@example.com"', '{"a":' * 2000 + ' "<EMAIL_1>"'),
]


@pytest.mark.parametrize(("text", "masked"), JSON_TEXTS)
def test_json_in_a_text_stays_json_as_it_was_written(text, masked):
    assert RowMask(FINDER).value(text) == masked


VALUES = st.recursive(
    st.sampled_from([text for _, text, _ in FOUND] + NOTHING)
    | st.integers()
    | st.floats()
    | st.none()
    | st.sampled_from(["phone", "3471234567"])
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["value", "key", "tel"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["phone", "note", "id"]), VALUES, min_size=1), st.sampled_from([None, 2]))
def test_json_text_is_masked_as_its_values_are(value, indent):
    text = json.dumps(value, indent=indent)
    masked = RowMask(FINDER).value(text)
    assert repr(json.loads(masked)) == repr(RowMask(FINDER).value(value))
    if json.loads(masked) == value:
        assert masked == text


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
