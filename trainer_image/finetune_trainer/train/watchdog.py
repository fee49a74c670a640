"""Ends a process that hangs, and says where it hangs.

A rank whose peer is gone or stuck may wait in C code for ever, with its GPU taken and nothing to see. Each process
has a thread that looks at the signs of life that the training gives: a step, a micro-batch, a batch of an evaluation.
Without one for too long the log gets the stacks of all threads, the termination message the place of the main thread,
and the process ends with exit code 78. All ranks of a hanging run come to this at about the same time, each by its
own clock, so that the log holds the stacks of all of them.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import HANG_SECONDS, HANG_STEPS, TerminationMessage
from finetune_trainer import log, stacks
from finetune_trainer.termination import write_last_word
from finetune_trainer.train.pace import Pace


@dataclass(frozen=True)
class Patience:
    """How long a process may be silent, in seconds."""

    least: float = HANG_SECONDS
    """Never a hang, however short the steps are."""
    steps: float = HANG_STEPS
    """Nor is the time of so many median steps."""
    slow: float = 1800.0
    """Nor this, in work that gives no sign of life, as loading and saving, and until the first step is done."""
    look: float = 5.0
    """Between two looks."""
    farewell: float = 30.0
    """From the verdict to the exit: the peers come to it too, and they would lose their connection before."""

    @classmethod
    def of(cls, least: float | None) -> Self:
        """Return the usual patience, or with another least one that looks and ends in proportion."""
        return cls() if least is None else cls(least=least, look=least / 10, farewell=least)


class Listener(Protocol):
    """Who is told that the process lives, and knows how far it got; on rank 0 alone."""

    def heartbeat(self) -> None:
        """Take note that the process lives."""

    def between_steps(self) -> None:
        """Take note that what was done since the newest step was no step."""

    def reached(self, message: TerminationMessage) -> TerminationMessage:
        """Return the message with progress and checkpoints."""


class Watchdog:
    """Watches the main thread of this process while the context lasts."""

    def __init__(self, rank: int, termination_log: Path, patience: Patience | None = None) -> None:
        self.pace = Pace()
        self.listener: Listener | None = None
        self._rank = rank
        self._termination_log = termination_log
        self._patience = patience or Patience()
        self._sign = time.monotonic()
        self._doing = "at its start"
        self._is_slow = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Once it has given its verdict the thread never ends: what the main thread may still say is an echo.
        self._closed.set()
        self._thread.join()

    def beat(self) -> None:
        """Give a sign of life."""
        self._sign = time.monotonic()

    def step(self, done: int) -> None:
        """Give a sign of life: a step is done."""
        self.pace.step()
        self._doing = f"after step {done}"
        self.beat()

    @contextmanager
    def during(self, doing: str, *, slow: bool = False) -> Iterator[None]:
        """Say what the process does while this lasts; `slow` work gives no signs of life on its way."""
        before = self._doing, self._is_slow
        self.beat()
        self._doing, self._is_slow = doing, slow
        try:
            yield
        finally:
            self.beat()
            self._doing, self._is_slow = before
            self.pace.begin()
            if self.listener is not None:
                self.listener.between_steps()

    @property
    def limit(self) -> float:
        """Seconds of silence that are no hang now."""
        patience = self._patience
        usual = max(patience.least, patience.steps * (self.pace.median or 0.0))
        return max(usual, patience.slow) if self._is_quiet else usual

    @property
    def _is_quiet(self) -> bool:
        """Whether silence is to be expected now."""
        return self._is_slow or self.pace.median is None

    def _watch(self) -> None:
        overdue = False
        while not self._closed.wait(self._patience.look):
            silent, limit = time.monotonic() - self._sign, self.limit
            # Only when it is so at two looks: a process that was frozen gets the time for its next sign.
            if overdue and silent > limit:
                self._end(silent)
            overdue = silent > limit
            # For the case that a thread stands in C code with the interpreter's lock, and this one cannot look.
            faulthandler.dump_traceback_later(limit + self._patience.farewell, exit=True, file=stacks.STANDARD_ERROR)
            # Told through a silence that is expected too: the operator has less patience, and would end the pod.
            if self._is_quiet or silent < 2 * self._patience.look:
                self._tell_life()
        faulthandler.cancel_dump_traceback_later()

    def _tell_life(self) -> None:
        try:
            if self.listener is not None:
                self.listener.heartbeat()
        except Exception as error:  # noqa: BLE001 - what cannot be told must not end the watch
            log.exception("heartbeat-failed", error)

    def _end(self, silent: float) -> None:
        # By a thread of its own: a log or a disk that takes nothing any more must not keep the process alive.
        threading.Thread(target=self._speak, args=(silent, stacks.main_thread_place()), daemon=True).start()
        time.sleep(self._patience.farewell)
        os._exit(ExitCode.HUNG)

    def _speak(self, silent: float, place: str) -> None:
        message = TerminationMessage(reason=Reason.HUNG, message=self._sentence(silent, place))
        if self.listener is not None:
            message = self.listener.reached(message)
        write_last_word(self._termination_log, message)
        log.error("hung", seconds=round(silent), doing=self._doing, place=place)
        for thread, frames in stacks.of_threads().items():
            log.error("stack", thread=thread, frames=frames)

    def _sentence(self, silent: float, place: str) -> str:
        return (
            f"the training hangs: rank {self._rank} gave no sign of life for {silent:.0f} s {self._doing}; it stands"
            f" in {place}. The stacks of all ranks are in the pods' logs (event stack): look at the rank that stands"
            " elsewhere than the others or gave none; if there is none, at the network between the nodes"
        )
