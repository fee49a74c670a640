"""The work queue: which job is looked at next.

Three promises, those of client-go's work queue: a key stands in line at most once; a key is never worked on by two
workers; a key that is marked dirty while it is worked on comes back afterwards. Around it: back-off per key (0.5 s
doubling to 5 minutes, with jitter, so that a thousand failed jobs do not return in one wave), and keys due later in
one heap under one timer. The clock is the event loop's, or a test's.

A key may be added `first`, before all that are not: somebody waits for a new job to begin, nobody for the second
stage of one among thousands. A key that comes back goes behind the others, so each can be first only once.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 300.0


class Key(NamedTuple):
    """A FineTuneJob: namespace and name."""

    namespace: str
    name: str


class Timer(Protocol):
    """What the queue needs of an event loop."""

    def time(self) -> float:
        """Return seconds on a clock that never goes back."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Any:
        """Call back after `delay` seconds; the handle returned has cancel()."""


class QueueClosedError(Exception):
    """No key is handed out any more: the process is ending."""


class WorkQueue:
    """Keys that wait for a worker, keys being worked on, keys due later."""

    def __init__(self, timer: Timer, *, jitter: Callable[[], float] = random.random) -> None:
        self._timer = timer
        self._jitter = jitter
        self._first: deque[Key] = deque()
        self._line: deque[Key] = deque()
        self._since: dict[Key, float] = {}
        self._working: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._order = count()
        self._alarm: Any = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def add(self, key: Key, *, first: bool = False) -> None:
        """Mark the key dirty: in line now, or once more when its worker is done."""
        self._due.pop(key, None)
        if key in self._since:
            return
        self._since[key] = self._timer.time()
        if key not in self._working:
            (self._first if first else self._line).append(key)
            self._wake_one()

    def add_after(self, key: Key, delay: float) -> None:
        """Mark the key dirty in `delay` seconds; the earliest of several due times counts."""
        if delay <= 0:
            self.add(key)
            return
        due = self._timer.time() + delay
        if key in self._since or due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._order), key))
        self._set_alarm()

    def retry(self, key: Key, *, at_least: float = 0.0) -> None:
        """Mark the key dirty after its back-off, which doubles with each call until `succeeded`."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        full = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures, 32))
        backoff = full * (0.5 + 0.5 * self._jitter())
        if at_least > backoff:
            self.hold(key, at_least)
        else:
            self.add_after(key, backoff)

    def hold(self, key: Key, seconds: float) -> None:
        """Mark the key dirty after these seconds or, by chance, up to half as many more, so that keys that are held
        for the same reason do not all come back at once.
        """
        self.add_after(key, seconds * (1.0 + 0.5 * self._jitter()))

    def succeeded(self, key: Key) -> None:
        """Begin the key's back-off anew."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for the next key and take it; `done` must follow. Raises QueueClosedError after `close`."""
        while self._closed or not (self._first or self._line):
            if self._closed:
                raise QueueClosedError
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._pass_on(waiter)
                raise
        key = (self._first or self._line).popleft()
        del self._since[key]
        self._working[key] = self._timer.time()
        return key

    def done(self, key: Key) -> None:
        """Give the key back; it goes in line again if it was marked dirty meanwhile."""
        del self._working[key]
        if key in self._since:
            self._line.append(key)
            self._wake_one()

    def close(self) -> None:
        """Hand out no further key."""
        self._closed = True
        while self._waiters:
            self._wake_one()

    def depth(self) -> int:
        """Return how many keys are dirty."""
        return len(self._since)

    def oldest_age(self) -> float:
        """Return for how many seconds the oldest key has waited or has been worked on; 0 when there is none."""
        oldest = min([*self._since.values(), *self._working.values()], default=None)
        return 0.0 if oldest is None else self._timer.time() - oldest

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._later:
            delay = max(0.0, self._later[0][0] - self._timer.time())
            self._alarm = self._timer.call_later(delay, self._promote)

    def _promote(self) -> None:
        now = self._timer.time()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                self.add(key)
        self._set_alarm()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _pass_on(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done() and not waiter.cancelled():
            self._wake_one()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)
