"""Lists: what is needed to begin, before any watch is open, and whole ones every few minutes as the cure for lost
events.

To begin, the FineTuneJobs that have not ended are needed, and their children. Most have ended, and they and their
pods are the largest part of a cluster's lists: kopf lists them when it opens its watches, while new jobs are on their
way. If an ended job left something running or is to be deleted, it comes to light then.

kopf lists again after a watch was lost, but says nothing of what vanished meanwhile; only a comparison of whole lists
finds that, and `ask` brings it forward. Jobs that differ are marked dirty and counted: on a healthy cluster the count
stays at zero. Lists are read in chunks, and of a chunk nothing but slim records stays.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterable
from typing import NamedTuple

from finetune_api.reasons import Phase
from finetune_operator.errors import ApiError, GoneError, NotFoundError, RefusedError
from finetune_operator.kinds import CHILD_SELECTOR, FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.kube import Kube, ListQuery
from finetune_operator.manifests.names import JOB_LABEL
from finetune_operator.metrics import Metrics
from finetune_operator.store import KINDS, Place, Store
from finetune_operator.workqueue import Key, WorkQueue

PRIME_RETRY_SECONDS = 2.0
NAMES = 50
SELECTORS = 4
"""The children of up to so many times `NAMES` jobs are asked for by name; of more, all children are listed."""
NOT_ENDED = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase.is_terminal)
"""Selects FineTuneJobs by a field that the CRD declares to be selectable."""
GATHER_SECONDS = 5.0
"""After the first request for a comparison: the watches of the other kinds are about to list again too."""

logger = logging.getLogger(__name__)


class Lister:
    """Compares the store with the API server."""

    def __init__(
        self, kube: Kube, *, store: Store, queue: WorkQueue, metrics: Metrics, namespaces: tuple[str, ...]
    ) -> None:
        self._kube = kube
        self._store = store
        self._queue = queue
        self._metrics = metrics
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self.failures = 0
        """Relists that failed in a row."""
        self._asked = asyncio.Event()

    async def prime(self) -> None:
        """Fill the store with the jobs that have not ended and mark them dirty; wait for the API server as long as it
        takes.
        """
        while True:
            try:
                await self._list_to_begin()
                break
            except NotFoundError:
                logger.error("the API server does not know FineTuneJobs; install the CRD of the chart")
            except RefusedError as error:
                logger.error("the first list is refused; is the CRD of another release? %s", error.message)
            except ApiError as error:
                logger.warning("the first list failed; trying again: %s", error.message)
            await asyncio.sleep(PRIME_RETRY_SECONDS)
        for entry in self._store.jobs():
            if self._store.has_business(entry.key):
                self._queue.add(entry.key, first=self._store.is_new(entry.key))

    def ask(self) -> None:
        """Ask for a comparison soon: something may have vanished unseen."""
        self._asked.set()

    async def relist_forever(self, every_seconds: float) -> None:
        """Compare for ever, with jitter, so that replicas and clusters do not list in step; sooner when asked."""
        while True:
            pause = every_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - not a secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for would make a task, which kopf ends with its own
                    await self._asked.wait()
                await asyncio.sleep(GATHER_SECONDS)
            self._asked.clear()
            await self.relist()

    async def relist(self) -> None:
        """Compare once and mark what differs dirty; a failure is counted and mended by the next one."""
        try:
            changed = await self._compare()
        except (ApiError, TimeoutError) as error:
            self.failures += 1
            self._metrics.relists.labels("failed").inc()
            logger.warning("relist failed: %s", error)
            return
        self.failures = 0
        self._metrics.relists.labels("done").inc()
        self._metrics.drift.inc(len(changed))
        for key in changed:
            self._queue.add(key)

    async def _list_to_begin(self) -> None:
        self._store.forget()
        for namespace in self._namespaces:
            await self._take(FINE_TUNE_JOB, ListQuery(namespace, fields=NOT_ENDED))
        selectors = _child_selectors({entry.name for entry in self._store.jobs()})
        for kind in (JOB, POD):
            for namespace in self._namespaces:
                for selector in selectors:
                    await self._take(kind, ListQuery(namespace, selector))

    async def _compare(self) -> set[Key]:
        self._store.begin_relist()
        changed: set[Key] = set()
        for kind in KINDS:
            selector = "" if kind is FINE_TUNE_JOB else CHILD_SELECTOR
            for namespace in self._namespaces:
                changed |= await self._compare_kind(kind, ListQuery(namespace, selector))
        return changed

    async def _compare_kind(self, kind: Kind, query: ListQuery) -> set[Key]:
        taken = await self._take(kind, query)
        vanished = self._store.drop_unseen(kind, seen=taken.seen, version=taken.version, namespace=query.namespace)
        return taken.changed | vanished

    async def _take(self, kind: Kind, query: ListQuery) -> "_Taken":
        """Take a list in."""
        seen: set[Place] = set()
        changed: set[Key] = set()
        version = 0
        try:
            async for page in self._kube.pages(kind, query):
                named, differing = self._store.put_all(kind, page.items)
                seen |= named
                changed |= differing
                version = page.version
                del page  # before the next one comes
        except GoneError:
            if not query.chunk:
                raise
            # The list took longer than its version was kept: once more, in one piece.
            again = await self._take(kind, query._replace(chunk=0))
            return again._replace(changed=changed | again.changed)
        return _Taken(seen, changed, version)


class _Taken(NamedTuple):
    """What a list came to."""

    seen: set[Place]
    changed: set[Key]
    version: int


def _child_selectors(jobs: Iterable[str]) -> list[str]:
    """Return what selects the children of these jobs: by name, or all children where the jobs are many."""
    names = sorted(jobs)
    every = [names[at : at + NAMES] for at in range(0, len(names), NAMES)]
    if len(every) > SELECTORS:
        return [CHILD_SELECTOR]
    return [f"{CHILD_SELECTOR},{JOB_LABEL} in ({','.join(some)})" for some in every]
