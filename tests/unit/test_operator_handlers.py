"""What the operator asks of kopf: events only, and handlers that note and never fail."""

import asyncio
import time
from typing import Any

import pytest
from kopf import OperatorRegistry

from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_loopback.simulated_time import simulate
from finetune_operator.handlers import FIRST_LISTS_SECONDS, NoMemories, build_registry, kopf_settings
from finetune_operator.kinds import JOB
from finetune_operator.store import Store
from finetune_operator.workqueue import Key, WorkQueue

KEY = Key("ns", "tune")


async def no_prime() -> None:
    return None


def registry_over(store: Store, queue: WorkQueue) -> OperatorRegistry:
    return build_registry(store=store, queue=queue, prime=no_prime)


async def test_kopf_remembers_no_object() -> None:
    memories = NoMemories()
    first = await memories.recall(raw_job(), noticed_by_listing=True)
    assert first.noticed_by_listing
    assert await memories.recall(raw_job()) is not first
    assert list(memories.iter_all_memories()) == []
    await memories.forget(raw_job())


def test_kopf_is_an_event_pump_and_nothing_more() -> None:
    async def main() -> OperatorRegistry:
        return registry_over(Store(), WorkQueue(asyncio.get_running_loop()))

    registry = simulate(main)
    watched = {
        (handler.selector.group, handler.selector.version, handler.selector.any_name)
        for handler in registry._watching.get_all_handlers()
    }
    assert watched == {
        ("finetune-operator.io", "v1alpha1", "finetunejobs"),
        ("batch", "v1", "jobs"),
        ("", "v1", "pods"),
    }
    activities = {handler.activity.value for handler in registry._activities.get_all_handlers()}
    assert activities == {"startup", "authentication"}
    for other in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert list(other.get_all_handlers()) == []


def test_kopf_downloads_only_our_children_and_writes_nothing() -> None:
    settings = kopf_settings()
    selectors = settings.watching.label_selectors
    managed = "app.kubernetes.io/managed-by=finetune-operator"
    assert selectors["batch", "v1", "jobs"] == managed
    assert selectors["", "v1", "pods"] == managed
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True
    assert settings.networking.request_timeout == 30


@pytest.mark.parametrize("kind", ["FineTuneJob", "Job", "Pod"])
def test_an_event_is_noted_and_its_owner_looked_at(kind: str) -> None:
    job = raw_child_job()
    raw: dict[str, Any] = {"FineTuneJob": raw_job(), "Job": job, "Pod": raw_pod(job)}[kind]

    async def main() -> None:
        store, queue = Store(), WorkQueue(asyncio.get_running_loop())
        plurals = {"FineTuneJob": "finetunejobs", "Job": "jobs", "Pod": "pods"}
        handler = next(
            handler
            for handler in registry_over(store, queue)._watching.get_all_handlers()
            if handler.selector.any_name == plurals[kind]
        )
        for event, dirty in (("ADDED", 1), ("MODIFIED", 0), (None, 0), ("DELETED", 1), ("DELETED", 0)):
            await handler.fn(event={"type": event, "object": raw}, logger=None, memo=None)
            assert queue.depth() == dirty, event
            if dirty:
                assert await queue.take() == KEY
                queue.done(KEY)

    simulate(main)


@pytest.mark.parametrize(
    ("spec", "children", "dirty"),
    [({}, [], 0), ({"ttlSecondsAfterFinished": 60}, [], 1), ({}, [raw_child_job()], 1)],
    ids=["nothing to do", "to be deleted", "something runs on"],
)
def test_an_ended_job_is_looked_at_only_when_there_is_something_to_do(
    spec: dict[str, Any], children: list[dict[str, Any]], dirty: int
) -> None:
    async def main() -> int:
        store, queue = Store(), WorkQueue(asyncio.get_running_loop())
        for child in children:
            store.put(JOB, child)
        for handler in registry_over(store, queue)._watching.get_all_handlers():
            if handler.selector.any_name == "finetunejobs":
                ended = raw_job(phase="Succeeded")
                ended["spec"] |= spec
                await handler.fn(event={"type": None, "object": ended}, logger=None, memo=None)
        return queue.depth()

    assert simulate(main) == dirty


@pytest.mark.parametrize(("age", "asked"), [(1.0, 0), (FIRST_LISTS_SECONDS + 1.0, 1)])
def test_an_event_of_a_later_list_asks_for_a_comparison(
    monkeypatch: pytest.MonkeyPatch, age: float, asked: int
) -> None:
    async def main() -> int:
        times: list[None] = []
        queue = WorkQueue(asyncio.get_running_loop())
        registry = build_registry(store=Store(), queue=queue, prime=no_prime, compare=lambda: times.append(None))
        (startup,) = (one for one in registry._activities.get_all_handlers() if one.activity.value == "startup")
        await startup.fn()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + age)
        handler = next(iter(registry._watching.get_all_handlers()))
        await handler.fn(event={"type": "MODIFIED", "object": raw_job(version=1)}, logger=None, memo=None)
        await handler.fn(event={"type": None, "object": raw_job(version=1)}, logger=None, memo=None)
        return len(times)

    assert simulate(main) == asked
