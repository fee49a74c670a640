"""SIGTERM: at once, or where a run can be left with its state committed.

By default the signal raises `StopRequested` wherever the process is, which is right while it loads and fetches: there
is nothing to save. While training and evaluating it only sets a flag, and the processes agree on what they do about
it, because one that left alone would leave its peers in a collective.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Whether this process was asked to stop while that is deferred."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts, SIGTERM sets `requested` and interrupts nothing; use it in the main thread alone."""
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
