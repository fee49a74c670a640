"""The API server's audit log: whose request it was, and what it did."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
CONTROLLERS = "kube-controller-manager"
ACCOUNT = "system:serviceaccount:"
IsWriter = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the API server."""

    user: str
    verb: str
    resource: str
    """With its subresource: `jobs/status`."""
    namespace: str
    code: int
    at: float
    """When it came, in seconds since 1970."""

    @property
    def is_write(self) -> bool:
        """Whether it changes an object; Events and Leases have figures of their own."""
        return self.verb in WRITES and not self.is_event and not self.is_lease

    @property
    def is_event(self) -> bool:
        """Whether it records an Event."""
        return self.verb in WRITES and self.resource == "events"

    @property
    def is_lease(self) -> bool:
        """Whether it is about a Lease."""
        return self.resource == "leases"


def read_requests(log: Path) -> list[Request]:
    """Return every request of the log, oldest first; a watch counts once, when it is opened."""
    return sorted(dict(_parse(log)).values(), key=lambda request: request.at)


def between(requests: list[Request], begin: float, end: float) -> list[Request]:
    """Return the requests that came between two moments."""
    return [request for request in requests if begin <= request.at < end]


def is_controller(user: str) -> bool:
    """Whether this is kube-controller-manager: each of its controllers has an account in kube-system."""
    return user == f"system:{CONTROLLERS}" or user.startswith(f"{ACCOUNT}kube-system:")


def by_user(requests: list[Request], *, jobs: int) -> dict[str, float]:
    """Return the writes per job of each user, Events and Leases left out, most first."""
    counts = Counter(short_name(request.user) for request in requests if request.is_write)
    return {user: round(count / jobs, 3) for user, count in counts.most_common()}


def by_kind(requests: list[Request], *, is_writer: IsWriter, jobs: int) -> dict[str, float]:
    """Return a contender's requests per job by verb and resource, most first: where its writes go."""
    counts = Counter(f"{one.verb} {one.resource}" for one in requests if is_writer(one.user) and one.verb in WRITES)
    return {kind: round(count / jobs, 3) for kind, count in counts.most_common()}


def short_name(user: str) -> str:
    """Return a user's name without the namespace of its account."""
    return user.removeprefix(ACCOUNT).rpartition(":")[2]


def _parse(log: Path) -> Iterator[tuple[str, Request]]:
    with log.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # the last line may be half written
                entry = json.loads(line)
                if "objectRef" in entry:
                    yield entry["auditID"], _request(entry)


def _request(entry: dict[str, Any]) -> Request:
    reference = entry["objectRef"]
    parts = (reference["resource"], reference.get("subresource"))
    return Request(
        user=entry["user"]["username"],
        verb=entry["verb"],
        resource="/".join(part for part in parts if part),
        namespace=reference.get("namespace", ""),
        code=entry.get("responseStatus", {}).get("code", 0),
        at=datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp(),
    )
