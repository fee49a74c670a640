"""Policy hang: a training that makes no step."""

import pytest
from reconcile_builders import at, child, observed, progress, restarts, running, sample, status

from finetune_api.reasons import Phase, Reason
from finetune_operator.reconcile import reconcile

PODS = (child(), running(), running(index=1))


def silent(now, *records, heard=0, median=1.0, attempt=1, since=None, before=None):
    told = progress(40, attempt=attempt, last_update_time=at(heard), median_step_seconds=median)
    seen = observed(*PODS, *records, of=before or status(progress=told), listening_since=since)
    return reconcile(seen, at(now))


@pytest.mark.parametrize(
    ("median", "limit"), [(None, 660), (0.1, 660), (30.0, 660), (31.0, 680), (600.0, 12_060), (1.7e308, 604_860)]
)
def test_silence_becomes_a_hang(median, limit):
    waiting = silent(limit - 1, median=median)
    assert (waiting.status.phase, waiting.requeue_after) == (Phase.RUNNING, 1)
    plan = silent(limit, median=median)
    assert (plan.status.phase, plan.status.reason, plan.status.restarts) == (
        Phase.RESTARTING,
        Reason.BACKING_OFF,
        restarts(1),
    )
    assert "Hung: attempt 1 has told nothing since 09:00:00 UTC at step 40" in plan.status.message
    assert [one.name for one in plan.deletes] == ["bot-a1"]
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "Hung")


def test_a_sample_begins_the_silence_anew():
    assert silent(700, sample(41, last_update_time=at(690))).status.phase is Phase.RUNNING


def test_an_attempt_that_has_not_spoken_yet_loads_its_model():
    assert silent(10_000, attempt=0, before=status()).status.phase is Phase.RUNNING
    told = progress(40, attempt=1, last_update_time=at(0))
    second = status(attempt=2, progress=told)
    pods = (child(2), running(attempt=2), running(attempt=2, index=1))
    assert reconcile(observed(*pods, of=second), at(10_000)).status.phase is Phase.RUNNING


def test_silence_before_this_replica_listened_tells_nothing():
    assert silent(5000, since=at(4900)).status.phase is Phase.RUNNING
    assert silent(5560, since=at(4900)).status.phase is Phase.RESTARTING


def test_a_hang_that_comes_again_and_again_is_the_end():
    told = progress(40, attempt=1, last_update_time=at(0))
    plan = silent(10_000, before=status(progress=told, restarts=restarts(3)))
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.BACKOFF_LIMIT_EXCEEDED)
