"""Whole lives: random walks through a fake cluster, and what holds of every plan whatever was observed."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from fake_cluster import FakeCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from reconcile_builders import (
    STAGES,
    at,
    child,
    created,
    ended,
    job,
    observed,
    pod,
    progress,
    refused,
    restarts,
    running,
    sample,
    spec,
    status,
)

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile

CALM_AFTER = 120
LONGEST = 600


def live(seed, chaos):
    """Walk until the job has ended; from CALM_AFTER steps on nothing goes wrong any more."""
    cluster = FakeCluster(random=Random(seed), chaos=chaos)  # noqa: S311 - a walk, not a secret
    for step in range(LONGEST):
        if step == CALM_AFTER:
            cluster.chaos = 0.0
            cluster.set_suspend(False)
        plan = cluster.operate()
        if plan.status.phase.is_terminal:
            return cluster
        cluster.step()
    raise AssertionError(f"seed {seed}: still {plan.status.phase}: {plan.status.message}")


@pytest.mark.parametrize("seed", range(60))
def test_every_life_ends(seed):
    cluster = live(seed, chaos=(0.0, 0.1, 0.3, 0.6)[seed % 4])
    last = cluster.operate()
    assert last.status.phase.is_terminal
    assert last.status.reason is not None
    cluster.chaos = 0.0
    for _ in range(3):
        cluster.operate()
    assert [one for one in cluster.pods.values() if not one.is_terminal and not one.deletion_timestamp] == []


@pytest.mark.parametrize("seed", range(5))
def test_an_untroubled_life(seed):
    cluster = live(seed, chaos=0.0)
    assert cluster.phases == [Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.EXPORTING, Phase.SUCCEEDED]
    assert cluster.owner.status.restarts == restarts()
    assert cluster.owner.status.attempt == 1
    assert list(cluster.jobs) == ["bot-a1"]
    assert cluster.writes <= 7  # one for each of the five phases, and a message that outlives the first seconds


def test_lives_differ():
    ends = Counter(live(seed, chaos=0.3).owner.status.phase for seed in range(100, 130))
    assert set(ends) == {Phase.SUCCEEDED, Phase.FAILED}


stages = st.sampled_from(Stage)
attempts = st.integers(1, 3)
indexes = st.integers(0, 2)
endings = st.sampled_from(["", "Complete", "Failed", "FailureTarget", "Suspended"])
deletions = st.sampled_from([None, at(0), at(500)])
children = st.builds(
    lambda attempt, end, deletion, suspended: child(
        attempt, ended=end, deletion_timestamp=deletion, suspended=suspended
    ),
    attempts,
    endings,
    deletions,
    st.booleans(),
)
waiting = st.sampled_from(["", "ContainerCreating", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"])
pods = st.one_of(
    st.builds(
        lambda stage, attempt, index, reason, told: pod(
            stage, attempt, index=index, waiting_reason=reason, unschedulable=told
        ),
        stages,
        attempts,
        indexes,
        waiting,
        st.sampled_from(["", "0/2 nodes are available"]),
    ),
    st.builds(
        lambda stage, attempt, index, deletion: running(stage, attempt, index=index, deletion_timestamp=deletion),
        stages,
        attempts,
        indexes,
        deletions,
    ),
    st.builds(
        lambda code, stage, attempt, index, oom: ended(code, stage, attempt, index=index, oom=oom),
        st.sampled_from([0, 1, 64, 65, 75, 76, 77, 137, 143]),
        stages,
        attempts,
        indexes,
        st.booleans(),
    ),
)
statuses = st.builds(
    lambda phase, stage, attempt, total, prepared, exported, shown: status(
        phase,
        **({} if phase in STAGES or phase is Phase.RUNNING else {"stage": stage.value}),
        attempt=attempt,
        restarts=restarts(total + prepared + exported, total, prepare=prepared, export=exported),
        progress=shown,
        message="m",
        reason=Reason.BACKING_OFF if phase is Phase.RESTARTING else None,
    ),
    st.sampled_from(Phase),
    stages,
    st.integers(0, 3),
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.none() | st.builds(progress, st.integers(0, 100), attempt=attempts),
)
observations = st.builds(
    lambda records, before, suspend: observed(*records, of=job(before, spec=spec(suspend=suspend))),
    st.lists(
        children | pods | st.builds(sample, st.integers(0, 100), attempt=attempts) | st.builds(refused), max_size=7
    ),
    statuses,
    st.booleans(),
)
moments = st.sampled_from([0, 10, 45, 400, 3600, 10_000]).map(at)


@given(observations, moments)
@settings(max_examples=200, deadline=None)
def test_whatever_is_observed(seen, now):
    plan = reconcile(seen, now)
    old, new = seen.job.status, plan.status
    assert plan == reconcile(seen, now)
    assert new.attempt >= old.attempt
    assert new.restarts.total - old.restarts.total in (0, 1)
    assert new.restarts.counted - old.restarts.counted in (0, 1)
    assert new.phase_time is not None
    assert plan.requeue_after is None or plan.requeue_after >= 0
    assert (new.phase is not old.phase) == bool(plan.events)
    if old.phase.is_terminal:
        assert new == old
    if new.phase.is_terminal:
        assert plan.children == ()
        assert new.completion_time or old.phase.is_terminal
    if any(not one.is_terminal for one in seen.pods):
        assert not [one for one in plan.children if one["kind"] in ("Job", "Pod")]
    names = {f"Job/{one.name}" for one in seen.jobs} | {f"Pod/{one.name}" for one in seen.pods}
    assert not names & set(created(plan))
    assert all(one.kind == "Job" or one.force or one.name.startswith("bot-") for one in plan.deletes)


@given(observations, moments)
@settings(max_examples=200, deadline=None)
def test_decisions_settle(seen, now):
    """Carrying out statuses over one observation comes to rest within the few stages a job has, and stays."""
    for _ in range(12):
        plan = reconcile(seen, now)
        if plan.status == seen.job.status:
            break
        seen = replace(seen, job=replace(seen.job, status=plan.status))
    assert reconcile(seen, now).status == seen.job.status
    assert reconcile(seen, now).events == ()
