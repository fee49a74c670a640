"""How fast the newest steps were, how much of the devices they used, and how long they waited for data."""

import time
from collections import deque
from dataclasses import dataclass

_WINDOW = 20
"""Steps over which speed is averaged."""


@dataclass(frozen=True)
class Mark:
    """Sums at the end of a step; all but the time count from the first mark."""

    time: float
    """Seconds on a clock that only goes forward, and stands still between steps."""
    done: int = 0
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0
    """Seconds until batches were there."""


@dataclass(frozen=True)
class Speed:
    """Speed between two marks."""

    seconds_per_step: float
    tokens_per_second: float
    flops_per_second: float
    data_wait_share: float
    """From 0 to 1."""


class Meter:
    """Takes the time of steps, told with what they did over all processes and how long this one waited."""

    def __init__(self) -> None:
        self._left_out = 0.0
        """Seconds that were no step, since the clock was started."""
        self._marks: deque[Mark] = deque([Mark(self._now())], maxlen=_WINDOW + 1)
        self._begun = 0
        """Steps done when the clock was started."""

    def begin(self, done: int) -> None:
        """Start the clock after `done` steps."""
        self._left_out, self._begun = 0.0, done
        self._marks.clear()
        self._marks.append(Mark(self._now(), done))

    def skip(self) -> None:
        """The next step begins now: what was done since the last one was no step."""
        self._left_out += self._now() - self._marks[-1].time

    def step(self, done: int, *, tokens: int, flops: float, waited: float) -> Speed:
        """Take the time of a step and return the speed of the newest ones."""
        last = self._marks[-1]
        sums = last.tokens + tokens, last.flops + flops, last.waited + waited
        self._marks.append(Mark(self._now(), done, *sums))
        return speed_between(self._marks[0], self._marks[-1])

    def seconds_left(self, steps: int) -> float:
        """Return the seconds that so many more steps take, with as much between them as till now."""
        first, last = self._marks[0], self._marks[-1]
        between = self._left_out / max(1, last.done - self._begun)
        return (speed_between(first, last).seconds_per_step + between) * steps

    def _now(self) -> float:
        return time.monotonic() - self._left_out


def speed_between(first: Mark, last: Mark) -> Speed:
    """Return the speed between two marks."""
    seconds = max(last.time - first.time, 1e-9)
    return Speed(
        seconds_per_step=seconds / max(1, last.done - first.done),
        tokens_per_second=(last.tokens - first.tokens) / seconds,
        flops_per_second=(last.flops - first.flops) / seconds,
        data_wait_share=min(1.0, (last.waited - first.waited) / seconds),
    )
