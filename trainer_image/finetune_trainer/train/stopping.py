"""SIGTERM: at once, or where a run can be left with its state committed.

Until a worker has met its peers and built its engine, the signal ends it as any program: it would wait for a peer
outside of Python, where no handler runs, and an exception raised in the midst of an import may be swallowed. After
that it raises `StopRequested` wherever the process is, so that the last word can tell what was reached. While
training and evaluating it only sets a flag, and the processes agree on what they do about it, because one that left
alone would leave its peers in a collective.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from finetune_trainer.errors import StopRequested


def stop_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM by an exception."""
    raise StopRequested


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
