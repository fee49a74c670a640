"""What is sent to the API server reads the same as JSON and as YAML, whatever a pod said."""

import json

import pytest
import yaml

from finetune_operator.wire import encode

TEXTS = [
    "plain",
    "it broke \U0001f4a5 here",
    "gr\u00fc\u00dfe \u65e5\u672c",
    "\x00 \x07 \x1b[31m \x7f \x85 \x90 \x9f",
    "\ufeff \ufffe \uffff \u2028 \u2029",
    'quote " backslash \\ua123 tab \t newline \n',
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_was(text: str) -> None:
    sent = encode({"status": {"message": text}})
    assert json.loads(sent) == {"status": {"message": text}}
    assert yaml.safe_load(sent.decode()) == {"status": {"message": text}}


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert json.loads(encode({"message": "cut \ud83d off"})) == {"message": "cut \ufffd off"}
