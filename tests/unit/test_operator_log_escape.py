"""Whatever a user puts into a name, a message or an error: one line of JSON, and nothing a terminal obeys."""

import json
import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.log import JsonFormatter, job_fields

TEXTS = st.text() | st.sampled_from(
    ["\n", "\r\n", "\x1b[31m", "\x7f", "\u2028", "\x9b2J", '"}\n{"level": "error"', "\ud800"]
)


def line_of(message: str, *arguments: object, extra: dict[str, object], error: Exception | None = None) -> str:
    info = None
    if error is not None:
        try:
            raise error
        except Exception:  # noqa: BLE001 - any error may be logged
            info = sys.exc_info()
    record = logging.LogRecord("finetune_operator.x", logging.WARNING, "x.py", 1, message, arguments, info)
    for name, value in extra.items():
        setattr(record, name, value)
    return JsonFormatter().format(record)


@given(namespace=TEXTS, name=TEXTS, message=TEXTS, value=TEXTS, key=TEXTS)
def test_no_text_leaves_its_place_in_the_line(namespace: str, name: str, message: str, value: str, key: str) -> None:
    extra = job_fields(namespace, name, error=value, nested={key: [value]}, raw=value.encode(errors="replace"))
    line = line_of("pass failed: %s", message, extra=extra, error=ValueError(value))
    assert all(" " <= character <= "~" for character in line)
    parsed = json.loads(line)
    assert (parsed["level"], parsed["logger"]) == ("warning", "finetune_operator.x")
    assert (parsed["namespace"], parsed["job"], parsed["error"]) == (namespace, name, value)
    assert parsed["message"] == f"pass failed: {message}"
