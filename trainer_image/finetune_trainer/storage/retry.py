"""Tries again for minutes what the client gives up after seconds.

boto3's own tries are over within seconds; a server that restarts needs minutes. Each call gets a time budget, the
pauses grow and are jittered, and expired credentials are read anew from their file. Until the server has answered
once, a shorter budget holds if the caller asked for it, so that a wrong endpoint ends a stage soon.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage.client import FIRST_CONTACT, STEADY, Access, build_client
from finetune_trainer.storage.faults import UNKNOWN_KEY, Action, Fault, Target, classify, failure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 20.0


@dataclass(frozen=True)
class RetryBudget:
    """How long one operation is tried, in seconds."""

    seconds: float = 300
    first_contact: float = 300
    """Instead of `seconds` until the server has answered for the first time."""


PATIENT = RetryBudget()
PROBING = RetryBudget(first_contact=60)
"""For the stage that meets the endpoint first."""


def pause(attempt: int, jitter: float) -> float:
    """Return the seconds before try `attempt` + 1 (counted from 1); `jitter` is in [0, 1)."""
    return float(min(_FIRST_PAUSE * 2 ** min(attempt - 1, 16), _LONGEST_PAUSE) * (0.5 + jitter / 2))


class RetryingClient:
    """The process's client with the retry loop around it; safe for use by several threads."""

    def __init__(self, access: Access, budget: RetryBudget) -> None:
        self.access = access
        self._budget = budget
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._answered = False

    def call(self, target: Target, work: Callable[["S3Client"], T]) -> T:
        """Return what `work` returns, tried until the budget is spent. Raises StageFailure then, or at once."""
        start = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            client = None
            try:
                client = self._current()
                return work(client)
            except StageFailure:
                raise
            except Exception as error:
                fault = self._classify(error)
                wait = pause(attempt, random.random())  # noqa: S311 - jitter
                if self._is_final(fault, attempt, time.monotonic() - start + wait):
                    raise failure(fault, target, error) from error
            self._forget(fault, client)
            log.warning("storage-retry", operation=target.operation, uri=target.uri, cause=fault.reason, wait=wait)
            time.sleep(wait)

    def _classify(self, error: Exception) -> Fault:
        fault = classify(error)
        if fault is None:
            raise error
        return fault

    def _is_final(self, fault: Fault, attempt: int, elapsed: float) -> bool:
        if fault is UNKNOWN_KEY:
            # Read anew once, in case it was just rotated; waiting longer would hide a wrong Secret.
            return attempt > 1
        budget = self._budget.seconds if self._answered else self._budget.first_contact
        return fault.action is Action.FAIL or elapsed > budget

    def _forget(self, fault: Fault, failed: "S3Client | None") -> None:
        with self._lock:
            if fault.action is Action.REFRESH and self._client is failed:
                self._client = None

    def _current(self) -> "S3Client":
        with self._lock:
            if self._client is None:
                self._client = build_client(self.access, STEADY if self._answered else FIRST_CONTACT)
                if not self._answered:
                    self._client.meta.events.register("response-received.s3", self._note_answer)
            return self._client

    def _note_answer(self, response_dict: dict[str, Any] | None, **_: Any) -> None:
        """On every request's end; botocore hands over None when no answer came."""
        with self._lock:
            if response_dict is not None and not self._answered:
                self._answered = True
                self._client = None
