"""The termination message fits, the log lines are JSON, and neither shows a credential."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_api.stage import TERMINATION_LIMIT, TerminationMessage
from finetune_api.status import ClassReport, DataReport, EvaluationResult, OutputResult, Scores, SplitReport
from finetune_trainer import log
from finetune_trainer.errors import describe, redact
from finetune_trainer.termination import encode, write_last_word

SCORES = Scores(loss=1.0, perplexity=2.7, token_accuracy=0.5, tokens=100)


@given(text=st.text(max_size=1500), uri=st.text(max_size=3000))
def test_a_last_word_always_fits_and_keeps_its_reason(text: str, uri: str) -> None:
    message = TerminationMessage(
        reason=Reason.INVALID_DATA,
        message=text,
        evaluation=EvaluationResult(base=SCORES, tuned=SCORES),
        output=OutputResult(uri=uri, step=1, digest="d"),
    )
    encoded = encode(message)
    assert len(encoded) <= TERMINATION_LIMIT
    read = TerminationMessage.model_validate_json(encoded)
    assert read.reason is Reason.INVALID_DATA
    assert text.startswith(read.message.removesuffix("…"))


def test_a_short_last_word_is_left_as_it_is() -> None:
    message = TerminationMessage(reason=Reason.SUCCEEDED, message="ü", evaluation=EvaluationResult(tuned=SCORES))
    assert TerminationMessage.model_validate_json(encode(message)) == message


def test_the_sentence_is_shortened_before_a_part_is_left_out() -> None:
    message = TerminationMessage(
        reason=Reason.CRASHED,
        message="ü" * 1500,
        output=OutputResult(uri="u" * 2000, step=1, digest="d"),
    )
    read = TerminationMessage.model_validate_json(encode(message))
    assert read.output == message.output
    assert 200 <= len(read.message) < 1500


def test_of_many_classes_those_with_the_most_rows_are_told() -> None:
    splits = dict.fromkeys(("train", "validation", "test"), SplitReport())
    classes = [ClassReport(label="猫" * 64, train=rows) for rows in (5, 90, 4, 80, *range(100, 116))]
    data = DataReport(format="label", **splits, digest="0" * 64, classes=classes)
    read = TerminationMessage.model_validate_json(encode(TerminationMessage(reason=Reason.SUCCEEDED, data=data)))
    kept = len(read.data.classes)
    assert 10 < kept < 20
    fewest = sorted(one.train for one in classes)[: 20 - kept]
    assert read.data.classes == [one for one in classes if one.train not in fewest]


def test_a_part_that_has_no_room_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    message = TerminationMessage(
        reason=Reason.SUCCEEDED,
        evaluation=EvaluationResult(tuned=SCORES),
        output=OutputResult(uri="u" * 5000, step=1, digest="d"),
    )
    assert TerminationMessage.model_validate_json(encode(message)).output is None
    assert [(line["event"], line["part"]) for line in lines(capsys)] == [
        ("last-word-without", "evaluation"),
        ("last-word-without", "output"),
    ]


def test_a_path_that_cannot_be_written_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    write_last_word(Path("/proc/none/last-word"), TerminationMessage(reason=Reason.SUCCEEDED))
    assert lines(capsys)[0]["event"] == "termination-message-lost"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_bound", {})


def test_a_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    log.bind(stage="train", attempt=2, rank=0)
    log.info("step", loss=float("nan"), path=Path("/x"), text="a\nb ü")
    (line,) = lines(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "step",
        "stage": "train",
        "attempt": 2,
        "rank": 0,
        "loss": "nan",
        "path": "/x",
        "text": "a\nb ü",
    }


def test_bound_fields_travel_to_another_process() -> None:
    log.bind(stage="train")
    fields = log.bound()
    fields["stage"] = "other"
    assert log.bound() == {"stage": "train"}


def test_an_exception_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("aws_secret_access_key = abc/def+ghi")
    except ValueError as error:
        log.exception("crashed", error)
    (line,) = lines(capsys)
    assert "ValueError: aws_secret_access_key = [redacted]" in line["traceback"]
    assert "test_launcher_last_word.py" in line["traceback"]


def test_library_warnings_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.root.handlers[:], logging.root.level
    try:
        log.capture_library_logs()
        logging.getLogger("some.library").warning("careful: %s", "x")
        logging.getLogger("some.library").info("not shown")
    finally:
        logging.root.handlers[:], logging.root.level = before
    (line,) = lines(capsys)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "some.library", "careful: x")


def test_a_log_that_cannot_be_written_harms_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr("sys.stdout", closed)
    log.info("step")


SECRETS = [
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [redacted]"),
    ("aws_session_token=abc", "aws_session_token=[redacted]"),
    ("Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=y", "Authorization: [redacted]"),
    ("Bearer eyJhbGciOi.eyJ.sig", "Bearer [redacted]"),
    ("key AKIAIOSFODNN7EXAMPLE is unknown", "key [redacted] is unknown"),
    ("https://h/b?X-Amz-Signature=abc&x=1", "https://h/b?X-Amz-Signature=[redacted]&x=1"),
    ("http://user:pass@host:80/x", "http://[redacted]@host:80/x"),
    ("s3://bucket/key at http://host:8333", "s3://bucket/key at http://host:8333"),
]


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_credentials_are_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n b"), "ValueError: a b"),
        (ValueError("a \x1b[1mbold\x1b[0m b"), "ValueError: a bold b"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 5000), None),
    ],
)
def test_an_exception_is_described_in_one_line(error: Exception, text: str | None) -> None:
    assert describe(error) == text if text else len(describe(error)) == 1500
