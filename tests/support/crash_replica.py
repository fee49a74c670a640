"""A replica of the operator in the test's own event loop, which can be stopped dead at any write it makes.

It is the real one from store to writer. Only its edges differ: the watches are the test's, shared by all replicas;
there is no Lease; and its clocks can be moved on, so that a back-off takes no time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from crash_feed import Feed, Object

from finetune_loopback.kube_client import KubeApi
from finetune_operator.kinds import Kind
from finetune_operator.kube import Kube, ListQuery, Page
from finetune_operator.replica import Replica
from finetune_operator.settings import Settings
from finetune_operator.store import KINDS
from finetune_operator.workqueue import Key

WRITES = frozenset({"apply", "create", "update", "delete"})


class CrashError(BaseException):
    """The process is gone. Nothing of the operator catches this, as nothing survives a SIGKILL."""


class Side(Enum):
    """Whether the write still reached the API server."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True)
class Cut:
    """Where the operator is stopped: at its n-th write, from 1."""

    write: int
    side: Side


@dataclass
class Ledger:
    """The writes of one life, over all its replicas."""

    cut: Cut | None = None
    writes: list[str] = field(default_factory=list)
    was_cut: bool = False

    def is_cut_at(self, number: int, side: Side) -> bool:
        """Return whether the operator is to be stopped here; it is so once."""
        if self.was_cut or self.cut != Cut(number, side):
            return False
        self.was_cut = True
        return True


class Clock:
    """The clocks of one life: they run like the real ones, and jump to the next timer when told."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._skew = 0.0
        self._alarms: dict[asyncio.TimerHandle, tuple[float, Callable[[], None]]] = {}
        self._left_at: dict[str, float] = {}

    def time(self) -> float:
        """Return the loop's clock, moved on."""
        return self._loop.time() + self._skew

    def now(self) -> datetime:
        """Return the system's clock, moved on."""
        return datetime.now(UTC) + timedelta(seconds=self._skew)

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back after that time, or at a jump."""

        def ring() -> None:
            self._alarms.pop(handle, None)
            callback()

        handle = self._loop.call_later(delay, ring)
        self._alarms[handle] = (self.time() + delay, ring)
        return handle

    def adjust(self, raw: Object) -> Object:
        """Return the object with the time of its deletion on this clock: the API server's has not moved on."""
        meta = raw["metadata"]
        if "deletionTimestamp" not in meta:
            return raw
        skew = self._left_at.setdefault(meta["uid"], self._skew)
        moment = datetime.fromisoformat(meta["deletionTimestamp"]) + timedelta(seconds=skew)
        return {**raw, "metadata": {**meta, "deletionTimestamp": moment.isoformat()}}

    def forget(self) -> None:
        """Drop every timer: their owner is gone."""
        for handle in self._alarms:
            handle.cancel()
        self._alarms.clear()

    def jump(self) -> bool:
        """Move on to the next timer and let it ring; return False when there is none."""
        self._alarms = {one: alarm for one, alarm in self._alarms.items() if not one.cancelled()}
        if not self._alarms:
            return False
        handle, (due, ring) = min(self._alarms.items(), key=lambda item: item[1][0])
        handle.cancel()
        self._skew += max(0.0, due - self.time()) + 0.001
        ring()
        return True


class CuttingKube(Kube):
    """The operator's client over a session that all replicas share; stops the operator where the ledger says so."""

    feed: Feed
    ledger: Ledger
    clock: Clock

    async def __aenter__(self) -> "CuttingKube":
        self._session, self._server = self.feed.session, self.feed.api.url
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the session to the others."""

    async def pages(self, kind: Kind, query: ListQuery) -> AsyncIterator[Page]:
        """List as the operator does, the times on this life's clock."""
        async for page in super().pages(kind, query):
            yield page._replace(items=[self.clock.adjust(one) for one in page.items])

    async def _call(
        self, verb: str, kind: Kind, path: str, *, query: dict[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        if verb not in WRITES or "dryRun" in (query or {}):
            return await super()._call(verb, kind, path, query=query, body=body)
        ledger = self.ledger
        ledger.writes.append(f"{verb} {kind.kind}")
        number = len(ledger.writes)
        if ledger.is_cut_at(number, Side.BEFORE):
            raise CrashError
        try:
            reply = await super()._call(verb, kind, path, query=query, body=body)
            self.feed.owe(reply, namespace=path.partition("/namespaces/")[2].partition("/")[0], kind=kind)
        finally:
            if ledger.is_cut_at(number, Side.AFTER):
                raise CrashError
        return reply


class CuttingReplica(Replica):
    """A replica whose client can be cut."""

    def __init__(self, settings: Settings, *, feed: Feed, ledger: Ledger, clock: Clock) -> None:
        self._feed, self._ledger, self._clock = feed, ledger, clock
        super().__init__(settings, timer=clock, now=clock.now)
        self.kube.write_guard = lambda: True

    def _session(self, connections: int) -> CuttingKube:
        kube = CuttingKube(self.kopf_settings, connections=connections, metrics=self.metrics)
        kube.feed, kube.ledger, kube.clock = self._feed, self._ledger, self._clock
        return kube


class Operator:
    """The operator of one namespace: one replica after the other."""

    def __init__(self, feed: Feed, settings: Settings, *, ledger: Ledger) -> None:
        self.feed, self.settings, self.ledger = feed, settings, ledger
        self.clock = Clock()
        self.replica: CuttingReplica
        self.starts = 0
        feed.listeners.append(self._note)

    async def serve(self) -> None:
        """Run a replica; when it is stopped dead, run the next one."""
        while True:
            self.starts += 1
            self.replica = CuttingReplica(self.settings, feed=self.feed, ledger=self.ledger, clock=self.clock)
            async with self.replica.kube:
                await self.replica.prime()
                self._list()
                try:
                    await self.replica.worker().run()
                except CrashError:
                    self.clock.forget()

    @property
    def is_idle(self) -> bool:
        """Whether no job waits or is worked on."""
        replica = self.replica
        return replica.primed.is_set() and replica.queue.depth() == 0 and replica.queue.oldest_age() == 0

    def leave(self) -> None:
        """Hear nothing any more."""
        self.clock.forget()
        self.feed.listeners.remove(self._note)

    def _list(self) -> None:
        """Tell of everything that is there, as kopf does when it opens its watches."""
        for kind in KINDS:
            for raw in self.feed.of(kind, self.settings.watch_namespaces[0]):
                self._note(kind, "", raw)

    def _note(self, kind: Kind, change: str, raw: Object) -> None:
        """Do what the handlers of kopf's events do."""
        if raw["metadata"]["namespace"] not in self.settings.watch_namespaces:
            return
        take = self.replica.store.remove if change == "DELETED" else self.replica.store.put
        key = take(kind, self.clock.adjust(raw))
        if key is not None:
            self.replica.queue.add(Key(*key), first=self.replica.store.is_new(Key(*key)))


def settings_for(api: KubeApi, namespace: str) -> Settings:
    """Return the settings of an operator over one namespace; its certificate lies beside the API server's files."""
    tls = api.directory / "operator-tls"
    return Settings(
        operator_namespace=namespace,
        trainer_image="registry.example/trainer:test",
        progress_url="https://127.0.0.1:8443",
        watch_namespaces=(namespace,),
        tls_cert_file=tls / "tls.crt",
        tls_key_file=tls / "tls.key",
        tls_ca_file=tls / "ca.crt",
    )
