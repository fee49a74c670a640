"""Policy ttl: when a job that has ended is deleted."""

import pytest
from reconcile_builders import at, child, job, observed, running, spec, status

from finetune_api.reasons import Phase
from finetune_operator.model import Delete
from finetune_operator.reconcile import reconcile


def passed(*records, now, ttl, phase=Phase.SUCCEEDED, **changes):
    about = job(status(phase, completion_time=at(100), **changes), spec=spec(ttlSecondsAfterFinished=ttl))
    return reconcile(observed(*records, of=about), at(now))


@pytest.mark.parametrize(
    ("ttl", "now", "left"), [(60, 100, 60), (60, 159, 1), (60, 160, None), (0, 100, None), (None, 10**6, None)]
)
def test_a_job_goes_when_its_time_is_over(ttl, now, left):
    plan = passed(now=now, ttl=ttl)
    goes = ttl is not None and left is None
    assert plan.deletes == ((Delete(kind="FineTuneJob", name="bot", uid="uid-1"),) if goes else ())
    assert plan.requeue_after == left


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_terminal])
def test_a_job_that_has_not_ended_stays(phase):
    about = job(status(phase, message="m"), spec=spec(ttlSecondsAfterFinished=0))
    assert not [one for one in reconcile(observed(of=about), at(10)).deletes if one.kind == "FineTuneJob"]


def test_what_still_runs_is_ended_before():
    plan = passed(child(), running(), now=120, ttl=60, phase=Phase.FAILED)
    assert [(one.kind, one.name) for one in plan.deletes] == [("Job", "bot-a1")]


def test_a_job_that_nobody_finished_is_not_deleted():
    about = job(status(Phase.FAILED), spec=spec(ttlSecondsAfterFinished=0))
    assert reconcile(observed(of=about), at(10**6)).deletes == ()


@pytest.mark.parametrize("ttl", [0, 60])
def test_the_pass_that_ends_a_job_asks_to_be_called_when_its_time_is_over(ttl):
    """Nothing else would: no child changes any more, and the status that comes back is the one just written."""
    about = job(status(Phase.PREPARING), spec=spec(ttlSecondsAfterFinished=ttl, activeDeadlineSeconds=60))
    plan = reconcile(observed(of=about), at(10**6))
    assert plan.status.phase is Phase.FAILED
    assert plan.requeue_after == ttl
