"""Leadership by a Lease (coordination.k8s.io): at most one replica writes.

The holder renews every two seconds; whoever sees the Lease unchanged for its whole duration, by its own clock, may
take it. A holder that could not renew for `RENEW_DEADLINE` stops being the leader by its own clock, which is well
before anybody else may take over, and `holds` is asked before each write, so that even a process that was frozen in
between sends nothing more. A clean end releases the Lease, so that the next replica starts within a second or two.

Somebody may edit or delete the Lease. A leader takes one back that names nobody or is gone, and ends at once when it
names another one; a standby takes neither before a whole duration has passed, since the leader may not know yet.

The Lease object is replaced with its resourceVersion, so that of two takers one wins; the holder renews what it wrote
last without reading it first, which is one call where an API server with too much to do needs seconds for each.
Renewals use a session of their own: workers that wait for a slow API server must not hold up the renewal.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import finetune_api
from finetune_operator.errors import ApiError, ConflictError, NotFoundError
from finetune_operator.kinds import LEASE
from finetune_operator.kube import Kube

DURATION = 10
"""Seconds after which an unchanged Lease may be taken: 10 s, and a look every second, keep a takeover below 15 s."""
RENEW_DEADLINE = 7.0
RENEW_EVERY = 2.0
RETRY_EVERY = 0.5
LOOK_EVERY = 1.0
CALL_SECONDS = 5.0
"""A renewal that takes so long still comes before the deadline, since it counts from when it was begun."""
ADDRESS_ANNOTATION = f"{finetune_api.GROUP}/progress-address"
"""Where the holder takes progress: a standby passes on what it gets."""
RELEASED_DURATION = 1
"""Duration of a Lease that was given back."""
NEVER_SEEN, DELETED = "", "deleted"
"""In place of the version of a Lease that is not there."""

logger = logging.getLogger(__name__)


class Leader:
    """One replica's part in the election."""

    def __init__(
        self,
        kube: Kube,
        *,
        namespace: str,
        name: str,
        identity: str,
        address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._address = address
        self._clock = clock
        self._other: tuple[str, float] = ("", clock())
        self._seen: tuple[str, float] = (NEVER_SEEN, clock())
        self._renewed_at = float("-inf")
        self._written: dict[str, Any] | None = None
        """The Lease as this replica wrote it last, until it is known to be another."""

    def holds(self) -> bool:
        """Return whether this replica is the leader for sure, now."""
        return self._seconds_left() > 0

    def _seconds_left(self) -> float:
        return self._renewed_at + RENEW_DEADLINE - self._clock()

    def address_of_other(self) -> str:
        """Return where another replica that leads takes progress, empty when none is known to lead just now."""
        address, seen_at = self._other
        return address if self._clock() - seen_at < DURATION else ""

    async def acquire(self) -> None:
        """Wait until this replica is the leader."""
        while not await self._attempt():  # noqa: ASYNC110 - another process sets this, not an event of ours
            await asyncio.sleep(LOOK_EVERY)
        logger.info("this replica is the leader", extra={"fields": {"identity": self._identity}})

    async def keep(self) -> None:
        """Renew the Lease for as long as that works; return when it is lost, or no other try would be in time."""
        pause = RENEW_EVERY
        while True:
            await asyncio.sleep(pause)
            began = self._clock()
            renewed = await self._attempt()
            if not renewed and self._seconds_left() <= RETRY_EVERY:
                return
            pause = max(0.0, RENEW_EVERY - (self._clock() - began)) if renewed else RETRY_EVERY

    async def release(self) -> None:
        """Give the Lease back if it is held, so that another replica need not wait for it to expire."""
        if not self.holds():
            return
        self._renewed_at = float("-inf")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                lease = await self._kube.get(LEASE, namespace=self._namespace, name=self._name)
                if _holder(lease) == self._identity:
                    released = {"holderIdentity": "", "leaseDurationSeconds": RELEASED_DURATION}
                    lease["spec"] |= {**released, "renewTime": _now()}
                    await self._kube.replace(LEASE, lease)
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease could not be released; it expires by itself: %s", error)

    async def _attempt(self) -> bool:
        """Acquire or renew once; return whether this replica is the leader after it."""
        began, left = self._clock(), self._seconds_left()
        try:
            async with asyncio.timeout(min(CALL_SECONDS, left) if left > 0 else CALL_SECONDS):
                done = await self._acquire_or_renew()
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease %s/%s: %s", self._namespace, self._name, error or "no answer in time")
            return False
        self._renewed_at = began if done else float("-inf")  # another one holds it: not a moment longer
        return done

    async def _acquire_or_renew(self) -> bool:
        return (self._written is not None and await self._renew(self._written)) or await self._look_and_write()

    async def _renew(self, lease: dict[str, Any]) -> bool:
        """Renew the Lease unless somebody else has written it since; return whether it was renewed."""
        self._written = None  # it may be written though its answer is lost
        try:
            self._written = await self._kube.replace(
                LEASE, {**lease, "spec": _next_spec(lease["spec"], self._identity)}
            )
        except (ConflictError, NotFoundError):
            return False
        return True

    async def _look_and_write(self) -> bool:
        try:
            lease = await self._kube.get(LEASE, namespace=self._namespace, name=self._name)
        except NotFoundError:
            if not self.holds() and not self._may_create():
                return False
            self._written = await self._kube.create(LEASE, self._manifest(_new_spec(self._identity)))
            return True
        is_ours = _holder(lease) == self._identity or (not _holder(lease) and self.holds())
        if not is_ours and not self._has_expired(lease):
            self._other = (_annotations(lease).get(ADDRESS_ANNOTATION, ""), self._clock())
            return False
        self._publish(lease["metadata"])
        lease["spec"] = _next_spec(lease.get("spec") or {}, self._identity)
        self._written = await self._kube.replace(LEASE, lease)
        return True

    def _may_create(self) -> bool:
        """Whether a Lease that is not there may be made: one that was there has a holder who may still write."""
        return self._seen[0] == NEVER_SEEN or self._is_unchanged_for(DELETED, float(DURATION))

    def _has_expired(self, lease: dict[str, Any]) -> bool:
        """Whether the Lease may be taken; one without a holder that was not given back was edited by somebody."""
        duration = float((lease.get("spec") or {}).get("leaseDurationSeconds") or DURATION)
        is_unchanged = self._is_unchanged_for(str(lease["metadata"]["resourceVersion"]), duration)
        return is_unchanged or (not _holder(lease) and duration <= RELEASED_DURATION)

    def _is_unchanged_for(self, version: str, seconds: float) -> bool:
        """Note the version of the Lease; return whether it has been the same for longer than this."""
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] > seconds

    def _manifest(self, spec: dict[str, Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {"namespace": self._namespace, "name": self._name}
        self._publish(meta)
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": meta, "spec": spec}

    def _publish(self, meta: dict[str, Any]) -> None:
        """Write this replica's address beside its name; one without an address leaves none of another."""
        others = {key: text for key, text in (meta.get("annotations") or {}).items() if key != ADDRESS_ANNOTATION}
        meta["annotations"] = {**others, **({ADDRESS_ANNOTATION: self._address} if self._address else {})}


def _annotations(lease: dict[str, Any]) -> dict[str, str]:
    return lease["metadata"].get("annotations") or {}


def _holder(lease: dict[str, Any]) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""


def _new_spec(identity: str) -> dict[str, Any]:
    now = _now()
    times = {"acquireTime": now, "renewTime": now, "leaseTransitions": 0}
    return {"holderIdentity": identity, "leaseDurationSeconds": DURATION, **times}


def _next_spec(spec: dict[str, Any], identity: str) -> dict[str, Any]:
    if spec.get("holderIdentity") == identity:
        return {**spec, "leaseDurationSeconds": DURATION, "renewTime": _now()}
    return {**_new_spec(identity), "leaseTransitions": (spec.get("leaseTransitions") or 0) + 1}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
