"""How progress samples become looks at a job, on simulated time."""

import asyncio
import itertools
from datetime import UTC, datetime

import pytest

from finetune_api.stage import ProgressSample
from finetune_api.status import CheckpointRef, Progress
from finetune_loopback.simulated_time import simulate
from finetune_operator.samples import BUDGET_BURST, BUDGET_PER_SECOND, EVERY_SECONDS, Budget, SampleBook
from finetune_operator.workqueue import Key, WorkQueue

KEY = Key("ns", "tune")
COMMIT = CheckpointRef(uri="s3://b/c", step=5, time=datetime(2026, 1, 1, tzinfo=UTC), size_bytes=1)


def sample(step: int, *, attempt: int = 1, commit: CheckpointRef | None = None) -> ProgressSample:
    return ProgressSample(attempt=attempt, progress=Progress(step=step, total_steps=100), last_checkpoint=commit)


class Desk:
    """A book over a queue, with a worker that notes when each key came up and what the newest sample was."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.queue = WorkQueue(loop, jitter=lambda: 1.0)
        self.book = SampleBook(self.queue, clock=loop.time)
        self.looks: list[tuple[float, int]] = []
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            newest = self.book.get(key, uid="u1")
            self.looks.append((asyncio.get_running_loop().time(), newest.progress.step if newest else -1))
            delay = self.book.seconds_until_due(key)
            if delay is not None:
                self.queue.add_after(key, delay)
            self.queue.done(key)

    def put(self, new: ProgressSample, *, key: Key = KEY, uid: str = "u1") -> None:
        self.book.put(key, uid=uid, sample=new)


def test_a_sample_every_two_seconds_is_a_look_every_ten_and_the_last_one_is_shown() -> None:
    async def main() -> list[tuple[float, int]]:
        desk = Desk()
        for step in range(15):
            desk.put(sample(step))
            await asyncio.sleep(2)
        await asyncio.sleep(60)
        desk.task.cancel()
        return desk.looks

    assert simulate(main) == [(0, 0), (10, 4), (20, 9), (30, 14)]


@pytest.mark.parametrize("urgent", [sample(2, commit=COMMIT), sample(2, attempt=2)])
def test_a_commit_or_a_new_attempt_is_shown_at_once(urgent: ProgressSample) -> None:
    async def main() -> list[tuple[float, int]]:
        desk = Desk()
        desk.put(sample(1))
        await asyncio.sleep(1)
        desk.put(urgent)
        await asyncio.sleep(1)
        desk.task.cancel()
        return desk.looks

    assert simulate(main) == [(0, 1), (1, 2)]


def test_a_trainer_that_claims_a_commit_with_each_sample_is_shown_no_more_often_than_others() -> None:
    async def main() -> list[tuple[float, int]]:
        desk = Desk()
        for step in range(60):
            desk.put(sample(step, commit=COMMIT.model_copy(update={"step": step})))
            await asyncio.sleep(0.5)
        await asyncio.sleep(30)
        desk.task.cancel()
        return desk.looks

    looks = simulate(main)
    assert [step for _, step in looks[:4]] == [0, 1, 2, 3]
    assert len(looks) <= 4 + 2 * 60 // EVERY_SECONDS
    assert looks[-1][1] == 59


def test_a_thousand_jobs_that_report_every_two_seconds_cost_what_the_budget_says_and_a_commit_shows_at_once() -> None:
    """Per job at most one look in ten seconds, all together at most the budget, the commits in addition."""
    jobs, seconds = 1000, 120
    keys = [Key("ns", f"tune-{number}") for number in range(jobs)]

    async def main() -> tuple[dict[Key, list[float]], list[float]]:
        loop = asyncio.get_running_loop()
        queue = WorkQueue(loop)
        book, looks, waits = SampleBook(queue, clock=loop.time), {key: [] for key in keys}, []

        async def work() -> None:
            while True:
                key = await queue.take()
                book.get(key, uid="u1")
                looks[key].append(loop.time())
                delay = book.seconds_until_due(key)
                if delay is not None:
                    queue.add_after(key, delay)
                queue.done(key)

        worker = asyncio.create_task(work())
        for turn in range(seconds // 2):
            for number, key in enumerate(keys):
                commits = turn == 30 and number < 50
                book.put(key, uid="u1", sample=sample(turn, commit=COMMIT if commits else None))
            await asyncio.sleep(0)
            await asyncio.sleep(2)
            if turn == 30:
                waits = [min(abs(at - 60.0) for at in looks[key]) for key in keys[:50]]
        worker.cancel()
        return looks, waits

    looks, waits = simulate(main)
    assert max(waits) == 0
    quiet = [times for key, times in looks.items() if key not in keys[:50]]
    gaps = [later - sooner for times in quiet for sooner, later in itertools.pairwise(times)]
    assert min(gaps) >= EVERY_SECONDS - 1e-6
    total = sum(map(len, looks.values()))
    print(f"{total} looks of {jobs} jobs that posted {jobs * seconds // 2} samples in {seconds} s")
    assert total <= jobs + 50 + BUDGET_PER_SECOND * seconds + BUDGET_BURST
    assert total >= jobs + 0.8 * BUDGET_PER_SECOND * (seconds - 2 * EVERY_SECONDS)


def test_other_looks_neither_show_a_sample_early_nor_lose_it() -> None:
    async def main() -> list[tuple[float, int]]:
        desk = Desk()
        desk.put(sample(1))
        await asyncio.sleep(1)
        desk.put(sample(2))
        await asyncio.sleep(1)
        desk.queue.add(KEY)
        await asyncio.sleep(1)
        desk.queue.add_after(KEY, 2)
        desk.put(sample(3))
        await asyncio.sleep(30)
        desk.task.cancel()
        return desk.looks

    assert simulate(main) == [(0, 1), (2, 1), (5, 1), (10, 3)]


def test_a_sample_of_an_earlier_job_of_that_name_is_not_the_new_jobs() -> None:
    async def main() -> None:
        desk = Desk()
        desk.put(sample(7), uid="old")
        assert desk.book.get(KEY, uid="u1") is None
        desk.put(sample(1))
        newest = desk.book.get(KEY, uid="u1")
        assert newest is not None
        assert newest.progress.step == 1
        desk.book.forget(KEY)
        assert desk.book.get(KEY, uid="u1") is None
        desk.task.cancel()

    simulate(main)


def test_all_jobs_together_stay_within_one_budget() -> None:
    jobs, seconds = 1000, 300

    async def main() -> int:
        desk = Desk()
        keys = [Key("ns", f"tune-{number}") for number in range(jobs)]
        for key in keys:
            desk.put(sample(0), key=key)
        await asyncio.sleep(1)
        first = len(desk.looks)
        for step in range(1, seconds // 10):
            for key in keys:
                desk.put(sample(step), key=key)
            await asyncio.sleep(10)
        desk.task.cancel()
        assert first == jobs
        return len(desk.looks) - first

    looks = simulate(main)
    assert looks <= BUDGET_PER_SECOND * seconds + BUDGET_BURST
    assert looks >= BUDGET_PER_SECOND * (seconds - 3 * EVERY_SECONDS) * 0.9


def test_a_budget_gives_bursts_then_its_rate() -> None:
    now = [0.0]
    budget = Budget(per_second=2, burst=3, clock=lambda: now[0])
    assert [budget.try_take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [budget.try_take() for _ in range(2)] == [True, False]
    now[0] = 100
    assert [budget.take() for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
