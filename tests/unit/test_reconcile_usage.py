"""What the training pods took, and what of it was lost."""

from dataclasses import replace

import pytest
from reconcile_builders import SETTINGS, at, checkpoint, ended, observed, parsed, pod, restarts, running, status

from finetune_api.reasons import Phase
from finetune_api.stage import Stage
from finetune_api.status import FineTuneJobStatus, Usage
from finetune_operator.model import ChildPod, Prices
from finetune_operator.reconcile.usage import account

GPUS = {"distributed": {"numNodes": 2, "device": "gpu", "processesPerNode": 4}}
PRICED = replace(SETTINGS, prices=Prices(currency="EUR", gpu_hour={"nvidia.com/gpu": 2.5}))


def since(seconds: float, index: int = 0) -> ChildPod:
    return running(index=index, start_time=at(seconds))


def gone(seconds: float, *, after: float, code: int = 1, index: int = 0, **changes) -> ChildPod:
    return ended(code, index=index, after=after, start_time=at(seconds), **changes)


def counted(
    *pods: ChildPod,
    before: FineTuneJobStatus | None = None,
    after: FineTuneJobStatus | None = None,
    now: float = 100,
    settings=SETTINGS,
    **spec,
) -> Usage:
    old = before or status(Phase.RUNNING)
    seen = observed(*pods, of=old, settings=settings)
    return account(seen, old, after or old, spec=parsed(**spec), now=at(now))


def used(**changes) -> FineTuneJobStatus:
    return status(Phase.RUNNING, usage=Usage(**changes))


@pytest.mark.parametrize(
    ("pods", "as_of", "seconds"),
    [
        ((), None, 0),
        ((pod(),), None, 0),
        ((since(10),), None, 90),
        ((since(10), since(40, index=1)), None, 150),
        ((since(10),), 70, 30),
        ((since(80),), 70, 20),
        ((gone(10, after=60),), None, 50),
        ((gone(10, after=60),), 40, 20),
        ((gone(10, after=60),), 60, 0),
        ((gone(10, after=60),), 90, 0),
        ((gone(10, after=130),), None, 90),
        ((since(130),), None, 0),
        ((pod(phase="Failed", reason="Evicted", start_time=at(10)),), None, 0),
        ((running(Stage.PREPARE, start_time=at(10)),), None, 0),
        ((since(10), gone(10, after=30, index=1)), 20, 90),
    ],
)
def test_node_seconds(pods, as_of, seconds):
    before = used(as_of=None if as_of is None else at(as_of))
    usage = counted(*pods, before=before)
    assert (usage.node_seconds, usage.gpu_seconds, usage.wasted_seconds) == (seconds, 0, 0)


def test_nothing_is_told_before_a_pod_was_on_a_node():
    assert counted(pod(), now=5) == Usage()


def test_as_of_moves_with_each_count():
    assert counted(since(10), now=30).as_of == at(30)


def test_parts_add_up_to_the_whole():
    total, pods = status(Phase.RUNNING), (since(0.9), since(3.4, index=1))
    for now in (7.2, 7.9, 8.0, 31.7, 99.1):
        total = total.model_copy(update={"usage": counted(*pods, before=total, now=now, **GPUS)})
    assert total.usage.node_seconds == counted(*pods, now=99.1).node_seconds == (99 - 0) + (99 - 3)
    assert total.usage.gpu_seconds == 4 * total.usage.node_seconds


def test_counting_twice_at_a_moment_counts_once():
    once = used(**counted(since(10)).model_dump())
    assert counted(since(10), before=once) == once.usage


@pytest.mark.parametrize(
    ("limits", "per_pod"),
    [
        ({}, 4),
        ({"nvidia.com/gpu": 4}, 4),
        ({"nvidia.com/mig-1g.5gb": "2"}, 2),
        ({"amd.com/gpu": 8, "rdma/hca": 1}, 8),
        ({"nvidia.com/mig-1g.5gb": 0}, 0),
    ],
)
def test_gpu_seconds(limits, per_pod):
    spec = {**GPUS, "podTemplate": {"resources": {"limits": limits}}}
    assert counted(since(0), since(0, index=1), **spec).gpu_seconds == 200 * per_pod


COMMIT = checkpoint(70)
"""A commit 70 s after T0."""
FAILED_ONCE = restarts(1)
FREE = restarts(1, counted=0)


@pytest.mark.parametrize(
    ("pods", "old", "new", "changes", "lost"),
    [
        # A crash: since the newest commit of the attempt, or all of it.
        ((gone(10, after=90),), Phase.RUNNING, Phase.RESTARTING, {"restarts": FAILED_ONCE}, 80),
        (
            (gone(10, after=90),),
            Phase.RUNNING,
            Phase.RESTARTING,
            {"restarts": FAILED_ONCE, "last_checkpoint": COMMIT},
            20,
        ),
        ((gone(75, after=90),), Phase.RUNNING, Phase.FAILED, {"last_checkpoint": COMMIT}, 15),
        ((gone(10, after=60),), Phase.RUNNING, Phase.FAILED, {"last_checkpoint": COMMIT}, 0),
        ((gone(10, after=90), gone(20, after=95, index=1)), Phase.RUNNING, Phase.FAILED, {}, 155),
        ((gone(10, after=90),), Phase.STARTING, Phase.RESTARTING, {"restarts": FAILED_ONCE}, 80),
        # It hangs: its pods live, and have nothing to commit.
        ((since(10),), Phase.RUNNING, Phase.RESTARTING, {"restarts": FAILED_ONCE, "last_checkpoint": COMMIT}, 30),
        # Told to stop: pods that live commit first; those that ended have.
        ((since(10),), Phase.RUNNING, Phase.SUSPENDED, {}, 0),
        ((since(10),), Phase.RUNNING, Phase.RESTARTING, {"restarts": FREE}, 0),
        (
            (gone(10, code=75, after=72),),
            Phase.RUNNING,
            Phase.RESTARTING,
            {"restarts": FREE, "last_checkpoint": COMMIT},
            2,
        ),
        ((since(10),), Phase.RUNNING, Phase.FAILED, {}, 0),
        # A dead node commits nothing.
        (
            (running(start_time=at(10), deletion_timestamp=at(60)),),
            Phase.RUNNING,
            Phase.RESTARTING,
            {"restarts": FREE, "last_checkpoint": COMMIT},
            30,
        ),
        ((running(start_time=at(10), deletion_timestamp=at(90)),), Phase.RUNNING, Phase.SUSPENDED, {}, 0),
        # Nothing is given up.
        ((gone(10, code=0, after=90),), Phase.RUNNING, Phase.EXPORTING, {"last_checkpoint": COMMIT}, 0),
        ((since(10),), Phase.STARTING, Phase.RUNNING, {}, 0),
        # It was counted when it happened.
        ((gone(10, after=90),), Phase.RESTARTING, Phase.FAILED, {}, 0),
        # Pods of another attempt.
        ((ended(1, attempt=2, after=90, start_time=at(10)),), Phase.RUNNING, Phase.FAILED, {}, 0),
    ],
)
def test_wasted_seconds(pods, old, new, changes, lost):
    usage = counted(*pods, before=status(old), after=status(new, attempt=1, **changes))
    assert usage.wasted_seconds == lost


def test_no_more_is_lost_than_was_used():
    before = used(node_seconds=5, wasted_seconds=3, as_of=at(98))
    assert counted(gone(10, after=99), before=before, after=status(Phase.FAILED)).wasted_seconds == 6


def test_wasted_seconds_stay():
    before = used(node_seconds=500, wasted_seconds=300, as_of=at(90))
    assert counted(since(10), before=before).wasted_seconds == 300


@pytest.mark.parametrize(
    ("prices", "spec", "cost", "currency"),
    [
        (Prices(), GPUS, None, None),
        (PRICED.prices, {}, None, None),
        (PRICED.prices, GPUS, 1.0, "EUR"),
        (Prices(gpu_hour={"amd.com/gpu": 2}), GPUS, None, None),
        (Prices(gpu_hour={"nvidia.com/gpu": 0}), GPUS, 0.0, "USD"),
    ],
)
def test_cost(prices, spec, cost, currency):
    usage = counted(since(0), now=360, settings=replace(SETTINGS, prices=prices), **spec)
    assert (usage.cost, usage.currency) == (cost, currency)


def test_cost_is_that_of_all_gpu_seconds():
    before = used(node_seconds=360, gpu_seconds=1440, cost=7.0, currency="USD", as_of=at(360))
    usage = counted(since(0), before=before, now=720, settings=PRICED, **GPUS)
    assert (usage.gpu_seconds, usage.cost, usage.currency) == (2880, 2.0, "EUR")


def test_cost_of_two_kinds_of_gpus():
    prices = Prices(gpu_hour={"nvidia.com/mig-1g.5gb": 1, "nvidia.com/mig-2g.10gb": 3})
    spec = {
        **GPUS,
        "podTemplate": {"resources": {"limits": {"nvidia.com/mig-1g.5gb": 1, "nvidia.com/mig-2g.10gb": 1}}},
    }
    assert counted(since(0), now=3600, settings=replace(SETTINGS, prices=prices), **spec).cost == 4.0
