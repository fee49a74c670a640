"""Policy deadline: how long a job may take, and which time counts."""

import pytest
from reconcile_builders import at, checkpoint, child, job, observed, progress, running, spec, status

from finetune_api.reasons import Phase, Reason
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.deadline import active_since

RUNNING = (child(), running(), running(index=1))


def passed(*records, of, now, limit=100):
    return reconcile(observed(*records, of=job(of, spec=spec(activeDeadlineSeconds=limit))), at(now))


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.RESTARTING, Phase.EXPORTING])
def test_every_phase_that_works_has_an_end(phase):
    assert passed(of=status(phase, message="m"), now=99).status.phase is not Phase.FAILED
    plan = passed(of=status(phase, message="m"), now=100)
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.ACTIVE_DEADLINE_EXCEEDED)
    assert plan.status.message == "the job took longer than 100 s (spec.activeDeadlineSeconds)"


@pytest.mark.parametrize("before", [status(Phase.QUEUED), status(Phase.SUSPENDED, reason=Reason.SUSPENDED)])
def test_the_clock_stands_still_where_nothing_works(before):
    queued = child(suspended=True)
    about = job(before, spec=spec(activeDeadlineSeconds=100, suspend=before.phase is Phase.SUSPENDED))
    records = (queued,) if before.phase is Phase.QUEUED else ()
    assert reconcile(observed(*records, of=about), at(10_000)).status.phase is before.phase


def test_the_pods_are_ended_and_the_checkpoint_is_named():
    plan = passed(*RUNNING, of=status(last_checkpoint=checkpoint(40)), now=100)
    assert [one.name for one in plan.deletes] == ["bot-a1"]
    assert "its newest checkpoint is step 40 at s3://runs/bot/" in plan.status.message


def test_the_job_is_looked_at_again_at_the_deadline():
    speaks = status(progress=progress(3, attempt=1))
    assert passed(*RUNNING, of=speaks, now=60).requeue_after == 40
    assert passed(*RUNNING, of=speaks, now=60, limit=None).requeue_after is None


@pytest.mark.parametrize(
    ("old", "new", "since"),
    [
        (Phase.RUNNING, Phase.EXPORTING, 0),
        (Phase.PREPARING, Phase.QUEUED, 0),
        (Phase.QUEUED, Phase.QUEUED, 0),
        (Phase.QUEUED, Phase.STARTING, 50),
        (Phase.SUSPENDED, Phase.STARTING, 50),
        (Phase.SUSPENDED, Phase.QUEUED, 0),
    ],
)
def test_idle_time_moves_the_beginning(old, new, since):
    assert active_since(status(old, phase_time=at(10)), new, at(60)) == at(since)


def test_the_clock_begins_with_the_job():
    assert reconcile(observed(), at(7)).status.active_since == at(7)
