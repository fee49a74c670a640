"""Logs: one JSON object per line, with the job's keys wherever a job is what it is about."""

import ast
import json
import logging
from pathlib import Path

import pytest

import finetune_operator
from finetune_operator.log import JsonFormatter, job_fields

SOURCES = Path(finetune_operator.__file__).parent
ABOUT_JOBS = ("apply.py", "progress.py", "worker.py")
"""Modules whose every log line is about one job."""
ABOUT_THE_PROCESS = {
    "discovery.py",
    "leader.py",
    "relist.py",
    "replica.py",
    "runtime.py",
    "standby.py",
    "tls.py",
}


def log_calls(module: str) -> list[ast.Call]:
    calls = (node for node in ast.walk(ast.parse((SOURCES / module).read_text())) if isinstance(node, ast.Call))
    return [call for call in calls if ast.unparse(call.func).startswith("logger.")]


@pytest.mark.parametrize("module", ABOUT_JOBS)
def test_a_line_about_a_job_bears_its_keys(module: str) -> None:
    calls = log_calls(module)
    assert calls
    for call in calls:
        extra = next((word.value for word in call.keywords if word.arg == "extra"), None)
        assert isinstance(extra, ast.Call), f"{module}:{call.lineno} has no extra"
        assert ast.unparse(extra.func) in ("job_fields", "_fields"), f"{module}:{call.lineno}"


def test_every_other_module_that_logs_is_about_the_process() -> None:
    logging_modules = {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py") if log_calls(str(path))}
    new = logging_modules - {*ABOUT_JOBS, *ABOUT_THE_PROCESS}
    assert not new, f"name {new} in one of the two lists of this test"


def line(message: str, **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"msg": message, "levelname": "WARNING", "name": "x", **extra})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    parsed = json.loads(text)
    assert isinstance(parsed, dict)
    return parsed


def test_fields_of_a_job_are_keys_of_the_line() -> None:
    told = line("phase changed", **job_fields("ml", "bot", uid="u1", attempt=2))
    assert {name: told[name] for name in ("namespace", "job", "uid", "attempt", "level", "message")} == {
        "namespace": "ml",
        "job": "bot",
        "uid": "u1",
        "attempt": 2,
        "level": "warning",
        "message": "phase changed",
    }


def test_no_text_forges_a_line() -> None:
    told = line("child refused", **job_fields("ml", "bot", error='x"}\n{"message": "forged"}\u2028\x1b[31m'))
    assert (told["message"], told["error"]) == ("child refused", 'x"}\n{"message": "forged"}\u2028\x1b[31m')


def test_text_outside_ascii_is_escaped() -> None:
    record = logging.makeLogRecord({"msg": "\u2028\x1b", "levelname": "INFO", "name": "x"})
    assert JsonFormatter().format(record).isascii()
