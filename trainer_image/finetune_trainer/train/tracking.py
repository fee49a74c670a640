"""Trackers: places that the numbers of a training are written to beside its own series, each from its own thread.

The training only puts lines into a queue. What cannot be written is kept and tried again, and told in the log once
until it works: a tracker that fails never ends or slows a training.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from finetune_trainer import log
from finetune_trainer.errors import describe

_INTERVAL_SECONDS = 10.0
_FAREWELL_SECONDS = 10.0
_BATCH = 100
"""Lines that are written at once."""
_MOST_LINES = 10_000
"""That are kept while a tracker does not answer; older ones are lost to it."""


class Line(NamedTuple):
    """What was told of a step, and when, in seconds since 1970."""

    time: float
    step: int
    numbers: dict[str, float]


def line_of(told: dict[str, Any]) -> Line:
    """Return the numbers in a line of the metrics series."""
    numbers = {
        name: float(value)
        for name, value in told.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }
    return Line(time.time(), int(told["step"]), numbers)


class Backend(Protocol):
    """A place to write to. One thread alone calls it, and may meet any exception."""

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines."""

    def upload(self) -> None:
        """Bring what was written to where others see it."""

    def close(self, *, succeeded: bool) -> None:
        """Write nothing more."""


class Tracker:
    """Hands lines to a backend, which its thread opens: that may take a while and fail too."""

    def __init__(self, name: str, opens: Callable[[], Backend], interval: float = _INTERVAL_SECONDS) -> None:
        self._name = name
        self._opens = opens
        self._interval = interval
        self._backend: Backend | None = None
        self._lines: deque[Line] = deque(maxlen=_MOST_LINES)
        self._wake = threading.Event()
        self._upload_due = False
        self._closing = False
        self._succeeded = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def append(self, told: dict[str, Any]) -> None:
        """Take a line of the metrics series."""
        self._lines.append(line_of(told))

    def upload(self) -> None:
        """Have all that was taken shown to others soon."""
        self._upload_due = True
        self._wake.set()

    def close(self, *, succeeded: bool) -> None:
        """Write the rest, and wait a little for it."""
        self._succeeded, self._closing = succeeded, True
        self._wake.set()
        self._thread.join(_FAREWELL_SECONDS)
        if self._thread.is_alive():
            log.warning("tracking-failed", to=self._name, cause=f"not done within {_FAREWELL_SECONDS:.0f} s")

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(self._interval)
            self._wake.clear()
            closing = self._closing
            self._try(closing=closing)

    def _try(self, *, closing: bool) -> None:
        try:
            backend = self._backend = self._backend or self._opens()
            self._write(backend)
            if self._upload_due or closing:
                self._upload_due = False
                backend.upload()
            if closing:
                backend.close(succeeded=self._succeeded)
            self._failing = False
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises, training goes on
            if not self._failing:
                log.warning("tracking-failed", to=self._name, cause=describe(error))
            self._failing = True

    def _write(self, backend: Backend) -> None:
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            try:
                backend.write(batch)
            except BaseException:
                self._lines.extendleft(reversed(batch))
                raise
