"""Full lists: the first one before any watch is open, and one every few minutes as the cure for lost events.

kopf lists again after a watch was lost, but says nothing of what vanished meanwhile; only a comparison of whole lists
finds that, and `ask` brings it forward. Jobs that differ are marked dirty and counted: on a healthy cluster the count
stays at zero.
"""

import asyncio
import contextlib
import logging
import random

from finetune_operator.errors import ApiError, NotFoundError
from finetune_operator.kinds import CHILD_SELECTOR, FINE_TUNE_JOB
from finetune_operator.kube import Kube
from finetune_operator.metrics import Metrics
from finetune_operator.records import RawJob
from finetune_operator.store import KINDS, Store
from finetune_operator.workqueue import Key, WorkQueue

PRIME_RETRY_SECONDS = 2.0
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
        """Fill the store and mark every job dirty that has not ended; wait for the API server as long as it takes."""
        while True:
            try:
                await self._compare()
                break
            except NotFoundError:
                logger.error("the API server does not know FineTuneJobs; install the CRD of the chart")
            except ApiError as error:
                logger.warning("the first list failed; trying again: %s", error.message)
            await asyncio.sleep(PRIME_RETRY_SECONDS)
        for entry in self._store.jobs():
            if self._has_business(entry.key, entry.record):
                self._queue.add(entry.key)

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

    async def _compare(self) -> set[Key]:
        self._store.begin_relist()
        changed: set[Key] = set()
        for kind in KINDS:
            selector = "" if kind is FINE_TUNE_JOB else CHILD_SELECTOR
            for namespace in self._namespaces:
                items, version = await self._kube.list_all(kind, namespace=namespace, selector=selector)
                changed |= self._store.replace(kind, items, version=version, namespace=namespace)
        return changed

    def _has_business(self, key: Key, record: object) -> bool:
        """Whether a pass may find something to do: only a job that has ended and stays for ever has none."""
        ended = isinstance(record, RawJob) and record.is_terminal
        stays = isinstance(record, RawJob) and record.spec.get("ttlSecondsAfterFinished") is None
        return not (ended and stays) or bool(self._store.children(key))
