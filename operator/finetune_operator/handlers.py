"""The kopf side: event handlers that note and never work.

kopf calls an event handler once and forgets an error, so a handler does only what cannot fail: put a record into the
store, mark the owner's key dirty. No index, timer, daemon or create/update/delete handler: those write annotations
and finalizers, and an index over thousands of objects starts in quadratic time.

When a watch was away for too long (410 Gone), kopf lists again and says nothing of what vanished meanwhile. Events
that come from a list bear no type; long after the first lists they ask for a comparison of whole lists.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories  # kopf names no other way to a parameter of its own

import finetune_api
from finetune_operator.kinds import CHILD_SELECTOR, FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.kube import CHUNK
from finetune_operator.login import log_in
from finetune_operator.store import Store
from finetune_operator.workqueue import WorkQueue

FIRST_LISTS_SECONDS = 60.0
"""For so long after the store was filled, an event from a list is of kopf's first lists."""
WORKER_IDLE_SECONDS = 0.2
"""kopf keeps an object's last event for so long. With its 5 s, a list of 20,000 pods is in memory all at once."""
ULTIMATE_SECONDS = 60
"""So long after a failure of its own kopf kills the process; the way out of `runtime` takes up to 25 s."""


class NoDiffBase(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf's is untyped
    """Keeps nothing of an object. kopf would copy all of it on each event, for handlers of changes, of which there
    are none: a quarter of the operator's CPU.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return that an object has nothing whose change matters."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return that nothing was kept."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class NoMemories(ResourceMemories):  # type: ignore[misc]  # kopf's is untyped
    """Keeps nothing of an object between two events: kopf would remember each pod for as long as it is there, for
    daemons and for handlers that are tried again, of which there are none.
    """

    async def recall(self, *arguments: Any, **about: Any) -> Any:
        """Return a fresh memory that is not kept."""
        return await super().recall(*arguments, **{**about, "ephemeral": True})


def kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: server-side selectors, chunked lists, finite time-outs, no write of its own."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = CHUNK
    settings.watching.label_selectors["batch", "v1", "jobs"] = CHILD_SELECTOR
    settings.watching.label_selectors["", "v1", "pods"] = CHILD_SELECTOR
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.finalizer = f"{finetune_api.GROUP}/finalizer"
    settings.process.ultimate_exiting_timeout = ULTIMATE_SECONDS
    return settings


def build_registry(
    *,
    store: Store,
    queue: WorkQueue,
    prime: Callable[[], Awaitable[None]],
    compare: Callable[[], None] = lambda: None,
) -> kopf.OperatorRegistry:
    """Return the handlers: log-in, the first list before any watch, and one event handler per kind.

    `compare` is called when kopf has listed again.
    """
    registry = kopf.OperatorRegistry()
    settled = float("inf")

    def login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return log_in(settings)

    async def startup(**_: Any) -> None:
        nonlocal settled
        await prime()
        settled = time.monotonic() + FIRST_LISTS_SECONDS

    def listed() -> None:
        if time.monotonic() > settled:
            compare()

    kopf.on.login(registry=registry)(login)
    kopf.on.startup(registry=registry)(startup)
    for kind in (FINE_TUNE_JOB, JOB, POD):
        group, _, version = kind.api_version.rpartition("/")
        note = _note(kind, store=store, queue=queue, listed=listed)
        kopf.on.event(group, version, kind.plural, registry=registry)(note)
    return registry


def _note(
    kind: Kind, *, store: Store, queue: WorkQueue, listed: Callable[[], None]
) -> Callable[..., Awaitable[None]]:
    async def note(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] is None:
            listed()
        take = store.remove if event["type"] == "DELETED" else store.put
        key = take(kind, event["object"])
        if key is not None and store.has_business(key):
            queue.add(key, first=store.is_new(key))

    return note
