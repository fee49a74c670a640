"""Logs: one JSON object per line on standard output.

`log.info("upload-done", seconds=1.2)` prints time, level, event, the fields bound to this process (stage, attempt,
rank) and those of the call. Library code that uses Python's `logging` is printed in the same form from level
WARNING on.
"""

import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from finetune_trainer.errors import redact

_bound: dict[str, Any] = {}


def bind(**fields: Any) -> None:
    """Add fields to every later line of this process."""
    _bound.update(fields)


def bound() -> dict[str, Any]:
    """Return the bound fields, to be bound again in a child process."""
    return dict(_bound)


def info(event: str, **fields: Any) -> None:
    """Print a line of level info."""
    _print("info", event, fields)


def warning(event: str, **fields: Any) -> None:
    """Print a line of level warning."""
    _print("warning", event, fields)


def error(event: str, **fields: Any) -> None:
    """Print a line of level error."""
    _print("error", event, fields)


def exception(event: str, failure: BaseException, **fields: Any) -> None:
    """Print a line of level error with the traceback of `failure`."""
    trace = redact("".join(traceback.format_exception(failure)))
    _print("error", event, {**fields, "traceback": trace})


def capture_library_logs() -> None:
    """Send records of Python's `logging` (WARNING and above) to the same lines."""
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


class _LibraryHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print(record.levelname.lower(), "library", {"logger": record.name, "message": redact(record.getMessage())})


def _print(level: str, event: str, fields: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, **_bound, **fields}
    text = json.dumps({key: _plain(value) for key, value in line.items()}, default=str, ensure_ascii=False)
    # A log line that cannot be written (closed pipe, full disk) must not end a training run.
    with suppress(OSError, ValueError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
