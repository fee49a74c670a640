"""The first list and the lists after it: what is marked dirty, and what a failing API server does. Simulated time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from finetune_loopback.kube_objects import raw_child_job, raw_job
from finetune_loopback.simulated_time import simulate
from finetune_operator.errors import ApiError, GoneError, NotFoundError, RefusedError, TransientError
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.kube import CHUNK, ListQuery, Page
from finetune_operator.metrics import Metrics
from finetune_operator.relist import NAMES, Lister
from finetune_operator.store import Store
from finetune_operator.workqueue import Key, WorkQueue


class ApiServer:
    """Lists what it is given; fails as often as it is told."""

    def __init__(self) -> None:
        self.items: dict[Kind, list[dict[str, Any]]] = {FINE_TUNE_JOB: [], JOB: [], POD: []}
        self.version = 100
        self.failures: list[ApiError] = []
        self.lists: list[tuple[str, str | None, str]] = []
        self.chunks: list[int] = []
        self.gone = 0
        self.torn: list[ApiError] = []

    async def pages(self, kind: Kind, query: ListQuery) -> AsyncIterator[Page]:
        self.lists.append((kind.kind, query.namespace, query.selector))
        self.chunks.append(query.chunk)
        if self.failures:
            raise self.failures.pop(0)
        for item in self.items[kind]:
            if f"status.phase!={item.get('status', {}).get('phase')}" in query.fields.split(","):
                continue
            yield Page([item], self.version)
            if self.torn:
                raise self.torn.pop()
            if self.gone:
                self.gone -= 1
                raise GoneError("expired", status=410)
        yield Page([], self.version)


class Desk:
    def __init__(self, namespaces: tuple[str, ...] = ()) -> None:
        self.api, self.store = ApiServer(), Store()
        self.queue = WorkQueue(asyncio.get_running_loop())
        self.metrics = Metrics()
        self.lister = Lister(
            self.api, store=self.store, queue=self.queue, metrics=self.metrics, namespaces=namespaces
        )

    async def dirty(self) -> set[str]:
        found = set()
        while self.queue.depth():
            key = await self.queue.take()
            found.add(key.name)
            self.queue.done(key)
        return found


MANAGED = "app.kubernetes.io/managed-by=finetune-operator"


def test_priming_marks_every_job_dirty_that_has_not_ended_and_asks_for_the_children_of_no_other() -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [
            raw_job("running", uid="u2", phase="Running"),
            raw_job("done", uid="u3", phase="Succeeded"),
            raw_job("new"),
        ]
        desk.api.items[JOB] = [raw_child_job("running", owner_uid="u2")]
        await desk.lister.prime()
        assert await desk.queue.take() == Key("ns", "new"), "what waits to begin comes first"
        assert await desk.dirty() == {"running"}
        wanted = f"{MANAGED},finetune-operator.io/job in (new,running)"
        assert desk.api.lists == [("FineTuneJob", None, ""), ("Job", None, wanted), ("Pod", None, wanted)]
        assert len(desk.store.children(Key("ns", "running"))) == 1

    simulate(main)


def test_priming_lists_all_children_when_many_jobs_have_not_ended_and_none_when_all_have() -> None:
    async def main(phase: str, selectors: list[str]) -> None:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [raw_job(f"j{n}", uid=f"u{n}", phase=phase) for n in range(NAMES * 4 + 1)]
        await desk.lister.prime()
        assert [selector for kind, _, selector in desk.api.lists if kind == "Pod"] == selectors

    simulate(lambda: main("Running", [MANAGED]))
    simulate(lambda: main("Succeeded", []))


def test_priming_reads_no_job_that_has_ended() -> None:
    async def main() -> None:
        desk = Desk()
        phases = ("Running", "Succeeded", "Suspended", "Failed")
        desk.api.items[FINE_TUNE_JOB] = [raw_job(phase.lower(), uid=phase, phase=phase) for phase in phases]
        await desk.lister.prime()
        assert {entry.name for entry in desk.store.jobs()} == {"running", "suspended"}
        await desk.lister.relist()
        assert {entry.name for entry in desk.store.jobs()} == {phase.lower() for phase in phases}

    simulate(main)


def test_priming_begins_anew_after_a_failure_and_says_when_the_crd_does_not_fit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.items = {FINE_TUNE_JOB: [raw_job("gone", uid="u2"), raw_job()], JOB: [], POD: []}
        desk.api.torn = [RefusedError("field label not supported", status=400)]

        async def vanish() -> None:
            await asyncio.sleep(1)
            desk.api.items[FINE_TUNE_JOB].pop(0)

        await asyncio.gather(desk.lister.prime(), vanish())
        assert [entry.name for entry in desk.store.jobs()] == ["tune"]

    simulate(main)
    assert "is the CRD of another release?" in caplog.text


def test_a_relist_selects_children_on_the_server_and_lists_each_namespace() -> None:
    async def main() -> None:
        desk = Desk(namespaces=("a", "b"))
        await desk.lister.relist()
        assert desk.api.lists == [
            (kind, namespace, selector)
            for kind, selector in (("FineTuneJob", ""), ("Job", MANAGED), ("Pod", MANAGED))
            for namespace in ("a", "b")
        ]

    simulate(main)


def test_a_list_that_outlives_its_version_is_read_again_in_one_piece() -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [raw_job("a"), raw_job("b", uid="u2")]
        desk.api.gone = 1
        await desk.lister.relist()
        assert desk.api.chunks == [CHUNK, 0, CHUNK, CHUNK]
        assert await desk.dirty() == {"a", "b"}

    simulate(main)


def test_priming_waits_for_an_api_server_that_is_not_there_yet_and_for_the_crd() -> None:
    async def main() -> float:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [raw_job()]
        desk.api.failures = [TransientError("refused", status=0), NotFoundError("no such kind", status=404)]
        await desk.lister.prime()
        assert await desk.dirty() == {"tune"}
        return asyncio.get_running_loop().time()

    assert simulate(main) == 4


def test_a_relist_marks_only_what_differs_and_counts_it_as_drift() -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [raw_job("same"), raw_job("changed", uid="u2"), raw_job("gone", uid="u3")]
        await desk.lister.prime()
        await desk.dirty()
        await desk.lister.relist()
        assert await desk.dirty() == set()
        desk.api.items[FINE_TUNE_JOB] = [raw_job("same"), raw_job("changed", uid="u2", version=50)]
        await desk.lister.relist()
        assert await desk.dirty() == {"changed", "gone"}
        assert desk.metrics.registry.get_sample_value("finetune_operator_relist_drift_total") == 2

    simulate(main)


def test_failed_relists_are_counted_in_a_row_and_forgotten_after_a_good_one() -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.failures = [TransientError("overloaded", status=503), TransientError("overloaded", status=503)]
        for expected in (1, 2, 0):
            await desk.lister.relist()
            assert desk.lister.failures == expected

    simulate(main)


def test_relists_come_at_their_pace_for_ever() -> None:
    async def main() -> int:
        desk = Desk()
        task = asyncio.create_task(desk.lister.relist_forever(300))
        await asyncio.sleep(3000)
        task.cancel()
        return len(desk.api.lists) // 3

    assert 9 <= simulate(main) <= 11


def test_a_comparison_that_is_asked_for_comes_soon_and_many_requests_are_one() -> None:
    async def main() -> list[int]:
        desk, counts = Desk(), []
        task = asyncio.create_task(desk.lister.relist_forever(300))
        for _ in range(3):
            await asyncio.sleep(1)
            desk.lister.ask()
        for seconds in (2, 2, 100):
            await asyncio.sleep(seconds)
            counts.append(len(desk.api.lists) // 3)
        task.cancel()
        return counts

    assert simulate(main) == [0, 1, 1]


def test_the_key_of_a_vanished_child_is_its_owners() -> None:
    async def main() -> None:
        desk = Desk()
        desk.api.items[FINE_TUNE_JOB] = [raw_job()]
        desk.api.items[JOB] = [raw_child_job()]
        await desk.lister.prime()
        await desk.dirty()
        desk.api.items[JOB] = []
        await desk.lister.relist()
        assert await desk.dirty() == {"tune"}
        assert desk.store.children(Key("ns", "tune")) == []

    simulate(main)
