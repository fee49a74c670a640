"""What the API server asks us to wait (429 or 503 with Retry-After), kept for all who make such calls.

A job that backs off by itself would not do: an event about it calls for a look at once, and the next job knows
nothing of the answer that this one got. So the request to wait is kept per verb and kind, and whoever comes before
its end is turned away here, without a request.
"""

from collections.abc import Callable

LONGEST_SECONDS = 60.0
"""An answer may come from a webhook, or from a proxy in between: none of them can stop us for hours."""


class Backpressure:
    """Until when no call of a verb and a kind is to be made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[tuple[str, str], float] = {}

    def note(self, verb: str, kind: str, *, seconds: float) -> None:
        """Take in what the API server asked; the longest wait counts."""
        until = self._clock() + min(seconds, LONGEST_SECONDS)
        self._until[verb, kind] = max(until, self._until.get((verb, kind), until))

    def seconds_left(self, verb: str, kind: str) -> float:
        """Return how long to wait before the next such call, 0 when it may be made now."""
        return max(0.0, self._until.get((verb, kind), 0.0) - self._clock())
