"""Progress samples: the newest one per job, and how often they may lead to a write of a status.

A trainer reports every five seconds and a thousand jobs may train at once, but etcd should see little of it: a
first sample and a new commit are shown at once, anything else at most every ten seconds per job, and all jobs
together draw on one budget. Commits come minutes apart; a trainer that claims one with each sample is shown every ten
seconds too. A sample that has to wait is not lost: the newest one is shown when its time comes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.stage import ProgressSample
from finetune_operator.workqueue import Key, WorkQueue

EVERY_SECONDS = 10.0
BUDGET_PER_SECOND = 20.0
BUDGET_BURST = 40.0
URGENT_BURST = 3.0


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


class Budgets:
    """A budget for each key, of the newest `most` keys that were asked about: what is over that begins afresh."""

    def __init__(self, *, per_second: float, burst: float, most: int, clock: Callable[[], float]) -> None:
        self._per_second, self._burst, self._most, self._clock = per_second, burst, most, clock
        self._kept: OrderedDict[str, Budget] = OrderedDict()

    def try_take(self, key: str) -> bool:
        """Take one token of the key's budget if there is one."""
        budget = self._kept.get(key)
        if budget is None:
            budget = Budget(per_second=self._per_second, burst=self._burst, clock=self._clock)
            self._kept[key] = budget
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return budget.try_take()


@dataclass(slots=True)
class _Kept:
    uid: str
    newest: ProgressSample
    shown: ProgressSample
    """What a look at the job sees: the newest one as of `show_at`."""
    show_at: float
    urgency: Budget
    """How often a sample of this job may be shown at once."""

    @property
    def is_pending(self) -> bool:
        """Whether the newest sample has not been shown yet."""
        return self.newest is not self.shown


class SampleBook:
    """The newest sample of each job; marks jobs dirty in the queue at the pace of this module.

    The pace holds whatever else makes a worker look at the job in between: a pod's event, or the echo of the last
    status that was written, shows no sample before its time.
    """

    def __init__(self, queue: WorkQueue, *, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}
        self._budget = Budget(per_second=BUDGET_PER_SECOND, burst=BUDGET_BURST, clock=clock)

    def put(self, key: Key, *, uid: str, sample: ProgressSample) -> None:
        """Keep the sample as the job's newest one and see that it is shown in time."""
        now, kept = self._clock(), self._kept.get(key)
        if kept is None or kept.uid != uid:
            self._show_at_once(key, uid, sample, urgency=self._new_urgency())
        elif _is_urgent(kept.newest, sample) and kept.urgency.try_take():
            self._show_at_once(key, uid, sample, urgency=kept.urgency)
        else:
            if not kept.is_pending:
                kept.show_at = max(now, kept.show_at + EVERY_SECONDS) + self._budget.take()
                self._queue.add_after(key, kept.show_at - now)
            kept.newest = sample

    def _show_at_once(self, key: Key, uid: str, sample: ProgressSample, *, urgency: Budget) -> None:
        self._kept[key] = _Kept(uid, newest=sample, shown=sample, show_at=self._clock(), urgency=urgency)
        self._queue.add(key)

    def _new_urgency(self) -> Budget:
        return Budget(per_second=1.0 / EVERY_SECONDS, burst=URGENT_BURST, clock=self._clock)

    def get(self, key: Key, *, uid: str) -> ProgressSample | None:
        """Return the newest sample of the job with that uid whose time to be shown has come."""
        kept = self._kept.get(key)
        if kept is None or kept.uid != uid:
            return None
        if self._clock() >= kept.show_at:
            kept.shown = kept.newest
        return kept.shown

    def seconds_until_due(self, key: Key) -> float | None:
        """Return when the job is to be looked at for a sample that waits; None when none does."""
        kept = self._kept.get(key)
        return max(0.0, kept.show_at - self._clock()) if kept is not None and kept.is_pending else None

    def forget(self, key: Key) -> None:
        """Drop what is kept of a job that is gone or has ended."""
        self._kept.pop(key, None)


def _is_urgent(before: ProgressSample, after: ProgressSample) -> bool:
    return (
        before.attempt != after.attempt
        or after.last_checkpoint not in (None, before.last_checkpoint)
        or after.best_checkpoint not in (None, before.best_checkpoint)
    )
