"""What a user must know of a preparation: when it is told, in which words, and that it always arrives."""

import json

import pytest
from plans import RESOLVED

from finetune_api.base import LARGEST_INTEGER
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import TERMINATION_LIMIT, TerminationMessage
from finetune_api.status import ClassReport, DataReport, InvalidCount, PiiCount, Plan, SplitReport
from finetune_loopback.jobs import minimal_job
from finetune_trainer.prepare.data_card_text import as_text
from finetune_trainer.prepare.data_warnings import (
    experts_not_adapted,
    fewer_rows_to_replay,
    fewer_sequences,
    no_turn_end,
    rows_of_fewer_tokens,
    tell,
    tell_again,
)
from finetune_trainer.prepare.validation_rows import no_validation_rows
from finetune_trainer.termination import encode

BOTH = minimal_job(evaluation={"earlyStopping": {"patience": 2}, "bestMetric": "f1"})["spec"]
MOST = LARGEST_INTEGER
LONGEST = 1048576
ALL = [
    experts_not_adapted(MOST),
    no_turn_end(MOST),
    fewer_rows_to_replay(MOST),
    fewer_sequences(MOST - 1, MOST),
    rows_of_fewer_tokens(LONGEST - 1, LONGEST),
    no_validation_rows(FineTuneJobSpec.model_validate(BOTH), 0),
]
"""Every warning there is, with the longest numbers."""


@pytest.mark.parametrize(
    ("warning", "event", "fields", "words", "mend"),
    [
        (
            experts_not_adapted(7_000_000),
            "experts-not-adapted",
            {"parameters": 7_000_000},
            "does not reach the experts (7,000,000 parameters)",
            "set spec.method.type: full or freeze",
        ),
        (no_turn_end(3), "no-turn-end-token", {"rows": 3}, "(rows: 3)", "set spec.model.chatTemplate"),
        (
            fewer_rows_to_replay(12),
            "fewer-rows-to-replay",
            {"missing": 12},
            "(missing: 12), so all of them are taken",
            "add sources to spec.data.replay",
        ),
        (
            fewer_sequences(5, 8),
            "fewer-sequences-than-global-batch",
            {"sequences": 5, "global_batch_size": 8},
            "an epoch has 5 of the 8 sequences that spec.training.globalBatchSize wants",
            "lower it, add rows",
        ),
        (
            rows_of_fewer_tokens(1024, 2048),
            "rows-of-fewer-tokens",
            {"positions": 1024, "max_length": 2048},
            "the model reads rows of 1024 tokens at most, less than spec.data.maxLength",
            "lower it",
        ),
    ],
)
def test_a_warning_says_what_is_so_and_how_to_mend_it(warning, event, fields, words, mend):
    assert (warning.event, warning.fields) == (event, fields)
    before, _, after = warning.sentence.partition("; ")
    assert words in before
    assert mend in after


@pytest.mark.parametrize(
    "silent",
    [
        experts_not_adapted(0),
        no_turn_end(0),
        fewer_rows_to_replay(0),
        fewer_sequences(8, 8),
        rows_of_fewer_tokens(8, 8),
        rows_of_fewer_tokens(None, 8),
    ],
)
def test_what_is_not_so_is_not_told(silent, capsys):
    assert silent is None
    assert tell(silent) == []
    assert capsys.readouterr().out == ""


def test_the_log_and_the_status_say_the_same(capsys):
    told = tell(no_turn_end(3), None, fewer_rows_to_replay(12))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["no-turn-end-token", "fewer-rows-to-replay"]
    assert [line["hint"] for line in lines] == told
    assert (lines[0]["level"], lines[0]["rows"], lines[1]["missing"]) == ("warning", 3, 12)
    tell_again(told)
    assert [json.loads(line)["hint"] for line in capsys.readouterr().out.splitlines()] == told


def test_all_warnings_arrive_however_much_there_is_to_report():
    """Lists of rows give way: their rest stands in the data card."""
    counted = SplitReport(rows=10**9, tokens=10**12, supervised_tokens=10**12, sequences=10**9)
    numbers = {name: 10**12 for name in Plan.model_fields if type(getattr(RESOLVED, name)) is int}
    sentences = [warning.sentence for warning in ALL]
    data = DataReport(
        format="promptCompletion",
        train=counted,
        validation=counted,
        test=counted,
        invalid=[InvalidCount(kind="è" * 80, rows=10**6 + number) for number in range(5)],
        pii=[PiiCount(kind="fiscalCode", places=10**9)] * 7,
        num_classes=1000,
        classes=[ClassReport(label="猫" * 64, train=10**6 + n, validation=10**5, test=10**5) for n in range(20)],
        digest="0" * 64,
        warnings=sentences,
        card_uri=f"s3://{'b' * 63}/{'k' * 1024}",
    )
    message = TerminationMessage(reason=Reason.SUCCEEDED, plan=RESOLVED.model_copy(update=numbers), data=data)
    encoded = encode(message)
    assert len(encoded) <= TERMINATION_LIMIT
    read = TerminationMessage.model_validate_json(encoded)
    assert read.plan == message.plan
    assert read.data == data.model_copy(update={"classes": read.data.classes, "invalid": read.data.invalid})


def test_the_data_card_lists_warnings_where_there_are_any():
    card = {
        "format": "messages",
        "objective": "sft",
        "rowsRead": 1,
        "digest": "d",
        "warnings": [],
        "splits": {},
        "leftOut": {
            "invalid": 0,
            "invalidKinds": {},
            "tooLong": {},
            "personalData": 0,
            "inValidationOrTest": 0,
            "byWeight": 0,
        },
        "duplicates": {"action": "none", "training": 0, "validationAndTest": 0},
        "truncated": 0,
        "cutDocuments": 0,
        "replayed": 0,
        "personalData": {"action": "none", "rows": 0, "places": {}},
        "sources": [],
        "labels": [],
    }
    assert "Warnings" not in as_text(card)
    assert "## Warnings\n\n- a is so; do b\n- c is so; do d\n" in as_text(
        {**card, "warnings": ["a is so; do b", "c is so; do d"]}
    )
