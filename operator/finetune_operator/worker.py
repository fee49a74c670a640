"""One pass over one job: observe, decide, apply; and the workers that make passes for ever.

An error of one job never ends a worker: what may work later backs off, and a bug is logged with its traceback,
counted and backs off as well. What does end a worker ends the process (see `runtime`).
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from finetune_operator.apply import Writer
from finetune_operator.errors import HeldBackError, LeaseLostError, RefusedError, TransientError
from finetune_operator.log import job_fields
from finetune_operator.metrics import Metrics
from finetune_operator.model import Observed, Plan
from finetune_operator.observe import Observer
from finetune_operator.refusals import RefusalBook
from finetune_operator.samples import SampleBook
from finetune_operator.workqueue import Key, QueueClosedError, WorkQueue

logger = logging.getLogger(__name__)

Decide = Callable[[Observed, datetime], Plan]


def utc_now() -> datetime:
    """Return the time by the system's clock."""
    return datetime.now(UTC)


class Worker:
    """Makes passes; one object serves every worker task."""

    def __init__(
        self,
        *,
        queue: WorkQueue,
        observer: Observer,
        writer: Writer,
        samples: SampleBook,
        refusals: RefusalBook,
        metrics: Metrics,
        decide: Decide,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._queue = queue
        self._observer = observer
        self._writer = writer
        self._samples = samples
        self._refusals = refusals
        self._metrics = metrics
        self._decide = decide
        self._now = now

    async def run(self) -> None:
        """Take keys until the queue is closed."""
        while True:
            try:
                key = await self._queue.take()
            except QueueClosedError:
                return
            try:
                await self.work(key)
            finally:
                self._queue.done(key)

    async def work(self, key: Key) -> None:
        """Make one pass and tell the queue how it went."""
        try:
            with self._metrics.reconcile_seconds.time():
                await self._pass(key)
        except LeaseLostError:
            raise
        except HeldBackError as error:
            self._queue.hold(key, error.retry_after)
        except TransientError as error:
            self._failed(key, cause="transient", error=error, wait=error.retry_after)
        except RefusedError as error:
            self._failed(key, cause="refused", error=error)
        except Exception as error:
            logger.exception("pass failed", extra=job_fields(*key))
            self._failed(key, cause="bug", error=error)
        else:
            self._queue.succeeded(key)

    async def _pass(self, key: Key) -> None:
        observed = self._observer.observe(key)
        if observed is None:
            self._samples.forget(key)
            self._refusals.forget(key)
            return
        plan = self._decide(observed, self._now())
        applied = await self._writer.apply(observed, plan)
        if plan.status.phase.is_terminal:
            self._samples.forget(key)
        if applied.look_again:
            self._queue.add(key)
        for delay in (plan.requeue_after, self._samples.seconds_until_due(key)):
            if delay is not None:
                self._queue.add_after(key, delay)

    def _failed(self, key: Key, *, cause: str, error: Exception, wait: float = 0.0) -> None:
        self._metrics.reconcile_failures.labels(cause).inc()
        logger.warning("pass failed", extra=job_fields(*key, cause=cause, error=str(error)))
        self._queue.retry(key, at_least=wait)
