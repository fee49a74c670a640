"""How long a step takes: the median of the newest ones, which a rare evaluation or save does not move."""

import time
from collections import deque
from statistics import median

_WINDOW = 32


class Pace:
    """Takes the time of steps."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=_WINDOW)

    def begin(self) -> None:
        """The next step begins now: what was done since the last one was no step."""
        self._began = time.monotonic()

    def step(self) -> None:
        """A step is done, and the next one begins."""
        now = time.monotonic()
        self._seconds.append(now - self._began)
        self._began = now

    @property
    def median(self) -> float | None:
        """Median seconds of the newest steps; None before the first one is done."""
        seconds = list(self._seconds)
        return median(seconds) if seconds else None
