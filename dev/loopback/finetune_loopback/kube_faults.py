"""Faults that the proxy before the API server injects, and the record of what came through it."""

import threading
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class Kind(Enum):
    """What happens to a request."""

    REFUSE = auto()
    """Answered with `status`, and with `retry_after` if it is set; the API server never sees it."""
    RESET = auto()
    """The connection is reset; the API server never sees it."""
    LOSE_REPLY = auto()
    """The API server does it, then the connection is reset."""
    CUT_REPLY = auto()
    """The API server does it, and the connection ends in the middle of the reply's body."""
    HANG = auto()
    """No answer comes; the API server never sees it."""
    HANG_REPLY = auto()
    """The API server does it, and no answer comes."""
    HOLD = auto()
    """The request reaches the API server only when `release` is set, however long ago the client gave up."""
    WATCH_ENDS = auto()
    """A watch ends at once, in good order."""
    WATCH_CUT = auto()
    """The connection of a watch ends in the middle of its first line."""
    WATCH_TORN = auto()
    """A watch ends in good order, as HTTP sees it, but in the middle of its first line."""
    WATCH_SILENT = auto()
    """A watch stays open and tells nothing."""
    WATCH_GONE = auto()
    """A watch waits for `release`, then tells that its version is too old (410), as after a compaction."""


@dataclass
class Fault:
    """A fault for the next `times` requests that match: method, part of the path with query, part of either."""

    kind: Kind
    method: str
    contains: str = ""
    about: str = ""
    """Text in the path or in the body: a POST names its object in the body alone."""
    times: int = 1
    status: int = 503
    retry_after: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    """Set when it first happened."""
    release: threading.Event = field(default_factory=threading.Event)

    def hits(self, method: str, path: str, body: bytes) -> bool:
        """Return whether the request is meant."""
        is_place = method == self.method and self.contains in path
        return self.times > 0 and is_place and (self.about in path or self.about.encode() in body)


@dataclass(frozen=True)
class Request:
    """A request that reached the proxy."""

    at: float
    method: str
    path: str
    fault: Fault | None


class FaultBook:
    """The faults that wait, and the requests that came."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, kind: Kind, method: str, contains: str = "", **more: Any) -> Fault:
        """Add a fault and return it; faults are used up in the order they were added."""
        fault = Fault(kind, method, contains, **more)
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, method: str, path: str, body: bytes) -> Fault | None:
        """Note a request and return the fault that hits it."""
        with self._lock:
            fault = next((one for one in self._faults if one.hits(method, path, body)), None)
            self.requests.append(Request(time.monotonic(), method, path, fault))
            if fault is not None:
                fault.times -= 1
                fault.reached.set()
        return fault

    def clear(self) -> None:
        """Drop the faults that wait, and let go whatever one of them holds."""
        with self._lock:
            dropped, self._faults = self._faults, []
        for fault in dropped:
            fault.times = 0
            fault.release.set()

    def seen(self, method: str, contains: str = "") -> list[Request]:
        """Return the requests of this kind, oldest first."""
        return [one for one in self.requests if one.method == method and contains in one.path]
