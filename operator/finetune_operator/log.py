"""Logs of the operator: one JSON object per line on stdout, with the job's namespace and name where there is one.

JSON escapes whatever a user put into a name or an error text, so no value can forge a line of its own.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_QUIET = ("aiohttp.access", "kopf")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; `extra={"fields": {...}}` adds keys to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, logger, message, the extra fields and the traceback, if any."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str) -> None:
    """Send the logs of every library to stdout as JSON lines, from `level` on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def job_fields(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    """Return the `extra` of a log call about a job."""
    return {"fields": {"namespace": namespace, "job": name, **more}}
