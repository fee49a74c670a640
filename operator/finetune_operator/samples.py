"""Progress samples: the newest one per job, and how often they may lead to a write of a status.

A trainer may report every two seconds and a thousand jobs may train at once, but etcd should see little of it: a
first sample and a new commit are shown at once, anything else at most every ten seconds per job, and all jobs
together draw on one budget. A sample that has to wait is not lost: the newest one is shown when its time comes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.stage import ProgressSample
from finetune_operator.workqueue import Key, WorkQueue

EVERY_SECONDS = 10.0
BUDGET_PER_SECOND = 20.0
BUDGET_BURST = 40.0


class Budget:
    """A token bucket. `take` never refuses: it says how long to wait."""

    def __init__(self, *, per_second: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = per_second, burst, clock
        self._tokens, self._filled_at = burst, clock()

    def take(self) -> float:
        """Take one token, on credit if there is none; return the seconds until it is there."""
        self._fill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def try_take(self) -> bool:
        """Take one token if there is one."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now


@dataclass(slots=True)
class _Latest:
    uid: str
    sample: ProgressSample
    show_at: float
    """When the job was, or will be, marked dirty for its samples."""


class SampleBook:
    """The newest sample of each job; marks jobs dirty in the queue at the pace of this module."""

    def __init__(self, queue: WorkQueue, *, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._clock = clock
        self._latest: dict[Key, _Latest] = {}
        self._budget = Budget(per_second=BUDGET_PER_SECOND, burst=BUDGET_BURST, clock=clock)

    def put(self, key: Key, *, uid: str, sample: ProgressSample) -> None:
        """Keep the sample as the job's newest one and see that it is shown in time."""
        now, before = self._clock(), self._latest.get(key)
        if before is None or before.uid != uid or _is_urgent(before.sample, sample):
            self._latest[key] = _Latest(uid, sample, now)
            self._queue.add(key)
            return
        before.sample = sample
        if before.show_at > now:
            return
        delay = max(before.show_at + EVERY_SECONDS - now, 0.0) + self._budget.take()
        before.show_at = now + delay
        self._queue.add_after(key, delay)

    def get(self, key: Key, *, uid: str) -> ProgressSample | None:
        """Return the newest sample of the job with that uid."""
        latest = self._latest.get(key)
        return latest.sample if latest is not None and latest.uid == uid else None

    def forget(self, key: Key) -> None:
        """Drop what is kept of a job that is gone or has ended."""
        self._latest.pop(key, None)


def _is_urgent(before: ProgressSample, after: ProgressSample) -> bool:
    return (
        before.attempt != after.attempt
        or before.last_checkpoint != after.last_checkpoint
        or before.best_checkpoint != after.best_checkpoint
    )
