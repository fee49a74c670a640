"""One pass over one job: what is observed, and what each outcome means for the queue. On simulated time."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from finetune_api.reasons import Phase
from finetune_api.stage import ProgressSample
from finetune_api.status import FineTuneJobStatus, Progress
from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_loopback.simulated_time import simulate
from finetune_operator.apply import Applied
from finetune_operator.errors import HeldBackError, LeaseLostError, RefusedError, TransientError
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD
from finetune_operator.metrics import Metrics
from finetune_operator.model import Observed, Plan, PodSettings
from finetune_operator.observe import Observer
from finetune_operator.refusals import RefusalBook
from finetune_operator.samples import SampleBook
from finetune_operator.store import Store
from finetune_operator.worker import Worker
from finetune_operator.workqueue import FIRST_BACKOFF, Key, WorkQueue

KEY = Key("ns", "tune")
SETTINGS = PodSettings(trainer_image="t", progress_url="https://p", progress_ca="ca")


class Desk:
    """A worker whose decision and writer are played by the test; notes when it looked."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.queue, self.store, self.metrics = WorkQueue(loop, jitter=lambda: 1.0), Store(), Metrics()
        self.samples, self.refusals = SampleBook(self.queue, clock=loop.time), RefusalBook()
        self.observer = Observer(store=self.store, samples=self.samples, refusals=self.refusals, settings=SETTINGS)
        self.plan = Plan(status=FineTuneJobStatus(phase=Phase.RUNNING))
        self.outcome: Callable[[], Applied] = Applied
        self.looks: list[float] = []
        self.worker = Worker(
            queue=self.queue,
            observer=self.observer,
            writer=self,
            samples=self.samples,
            refusals=self.refusals,
            metrics=self.metrics,
            decide=self._decide,
        )
        self.store.put(FINE_TUNE_JOB, raw_job())

    def _decide(self, _: Observed, now: datetime) -> Plan:
        assert now.tzinfo is not None
        self.looks.append(asyncio.get_running_loop().time())
        return self.plan

    async def apply(self, _: Observed, plan: Plan) -> Applied:
        assert plan is self.plan
        return self.outcome()

    async def run(self, seconds: float) -> list[float]:
        """Mark the job dirty and let the worker run for some time."""
        self.queue.add(KEY)
        task = asyncio.create_task(self.worker.run())
        await asyncio.sleep(seconds)
        self.queue.close()
        await task
        return self.looks

    def failures(self, cause: str) -> float:
        return (
            self.metrics.registry.get_sample_value("finetune_operator_reconcile_failures_total", {"cause": cause})
            or 0.0
        )


def raising(error: Exception) -> Callable[[], Applied]:
    def outcome() -> Applied:
        raise error

    return outcome


def test_a_good_pass_is_made_once() -> None:
    async def main() -> list[float]:
        return await Desk().run(3600)

    assert simulate(main) == [0]


def test_the_plans_own_wish_is_kept() -> None:
    async def main() -> list[float]:
        desk = Desk()
        desk.plan = Plan(status=FineTuneJobStatus(), requeue_after=30)
        return await desk.run(100)

    assert simulate(main) == [0, 30, 60, 90]


@pytest.mark.parametrize(
    ("error", "cause", "looks"),
    [
        (TransientError("overloaded", status=503), "transient", [0, 0.5, 1.5, 3.5]),
        (TransientError("slow down", status=429, retry_after=2), "transient", [0, 3, 6, 8]),
        (RefusedError("no right", status=403), "refused", [0, 0.5, 1.5, 3.5]),
        (KeyError("a bug"), "bug", [0, 0.5, 1.5, 3.5]),
    ],
)
def test_a_failed_pass_backs_off_and_is_counted_by_its_cause(
    error: Exception, cause: str, looks: list[float]
) -> None:
    async def main() -> None:
        desk = Desk()
        desk.outcome = raising(error)
        found = await desk.run(looks[-1] + 0.1)
        assert found[:4] == pytest.approx(looks)
        assert desk.failures(cause) == len(found)

    simulate(main)


def test_to_be_held_back_is_no_failure_and_does_not_lengthen_the_backoff() -> None:
    async def main() -> None:
        desk = Desk()
        desk.outcome = raising(HeldBackError("asked to wait", status=429, retry_after=2))
        assert await desk.run(12.1) == pytest.approx([0, 3, 6, 9, 12])
        assert desk.failures("transient") == 0

    simulate(main)


def test_a_success_ends_the_backoff() -> None:
    async def main() -> list[float]:
        desk, failing = Desk(), 3

        def outcome() -> Applied:
            nonlocal failing
            failing -= 1
            if failing >= 0:
                raise TransientError("overloaded", status=503)
            return Applied()

        desk.outcome = outcome
        await desk.run(60)
        return desk.looks

    assert simulate(main) == pytest.approx([0, FIRST_BACKOFF, 3 * FIRST_BACKOFF, 7 * FIRST_BACKOFF])


def test_a_created_child_is_looked_at_at_once() -> None:
    async def main() -> list[float]:
        desk = Desk()
        desk.outcome = lambda: Applied(look_again=len(desk.looks) < 3)
        return await desk.run(10)

    assert simulate(main) == [0, 0, 0]


def test_a_lost_lease_ends_the_worker() -> None:
    async def main() -> None:
        desk = Desk()
        desk.outcome = raising(LeaseLostError("not held"))
        desk.queue.add(KEY)
        with pytest.raises(LeaseLostError):
            await desk.worker.run()

    simulate(main)


def test_a_status_of_a_release_to_come_backs_off_and_is_not_overwritten() -> None:
    async def main() -> None:
        desk = Desk()
        desk.store.put(FINE_TUNE_JOB, raw_job(version=2, phase="Dreaming"))
        assert await desk.run(5) == []
        assert desk.failures("bug") > 1

    simulate(main)


def test_what_is_kept_of_a_job_ends_with_it() -> None:
    async def main() -> None:
        desk = Desk()
        sample = ProgressSample(attempt=1, progress=Progress(step=1))
        desk.samples.put(KEY, uid="u1", sample=sample)
        desk.store.remove(FINE_TUNE_JOB, raw_job())
        assert await desk.run(1) == []
        assert desk.samples.get(KEY, uid="u1") is None

    simulate(main)


class Scene:
    """An observer over a store filled by a test."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.store = Store()
        kinds = {"FineTuneJob": FINE_TUNE_JOB, "Job": JOB, "Pod": POD}
        for raw in objects:
            self.store.put(kinds[raw["kind"]], raw)
        queue = WorkQueue(asyncio.get_running_loop())
        samples = SampleBook(queue, clock=asyncio.get_running_loop().time)
        self.observer = Observer(store=self.store, samples=samples, refusals=RefusalBook(), settings=SETTINGS)

    def names(self) -> tuple[list[str], list[str]]:
        observed = self.observer.observe(KEY)
        assert observed is not None
        return [job.name for job in observed.jobs], [pod.name for pod in observed.pods]


BEFORE, AFTER = "2025-12-31T23:00:00Z", "2026-01-01T01:00:00Z"


def test_children_of_an_earlier_job_of_the_same_name_are_not_the_new_ones() -> None:
    async def main() -> None:
        old_job = raw_child_job(uid="old-j", owner_uid="old")
        old_pod = raw_pod(old_job, uid="old-p", created=BEFORE)
        scene = Scene(raw_job(uid="u1"), old_job, old_pod)
        assert scene.names() == ([], [])
        scene.store.remove(JOB, old_job)
        assert scene.names() == ([], [])

    simulate(main)


def test_pods_whose_job_somebody_deleted_still_count_as_alive() -> None:
    async def main() -> None:
        job = raw_child_job()
        scene = Scene(raw_job(), job, raw_pod(job, created=AFTER))
        assert scene.names() == (["tune-a1"], ["tune-a1-0-abcde"])
        scene.store.remove(JOB, job)
        assert scene.names() == ([], ["tune-a1-0-abcde"])

    simulate(main)


def test_pods_of_a_new_job_are_not_mistaken_for_those_of_a_deleted_one() -> None:
    async def main() -> None:
        gone, made_anew = raw_child_job(uid="j1"), raw_child_job(uid="j2", version=5)
        scene = Scene(raw_job(), made_anew, raw_pod(gone, uid="p1", created=AFTER))
        assert scene.names() == (["tune-a1"], ["tune-a1-0-abcde"])

    simulate(main)
