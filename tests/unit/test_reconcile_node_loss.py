"""Policy node_loss: pods that nobody ends, and running attempts that lost one."""

from dataclasses import replace

import pytest
from reconcile_builders import SETTINGS, at, child, created, ended, observed, restarts, running, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.model import Delete
from finetune_operator.reconcile import reconcile

LOST = running(index=1, deletion_timestamp=at(0), disruption="DeletionByTaintManager")


def passed(*records, of=None, now=60.0, patience=300.0):
    settings = replace(SETTINGS, force_delete_after=patience)
    return reconcile(observed(*records, of=of or status(), settings=settings), at(now))


def forced(plan):
    return [one.name for one in plan.deletes if one.force]


@pytest.mark.parametrize(
    "before", [status(Phase.RESTARTING, message="m"), status(Phase.SUSPENDED, reason=Reason.SUSPENDING)]
)
def test_a_pod_that_nobody_ends_is_removed_by_force(before):
    early = passed(LOST, of=before, now=299)
    assert (forced(early), early.requeue_after) == ([], 1)
    late = passed(LOST, of=before, now=300)
    assert late.deletes[-1] == Delete(kind="Pod", name="bot-a1-1", uid="uid-bot-a1-1", force=True)


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.SUCCEEDED])
def test_also_after_the_end(phase):
    assert forced(passed(LOST, of=status(phase), now=300)) == ["bot-a1-1"]
    assert passed(LOST, of=status(phase), now=200).requeue_after == 100


def test_a_pod_of_a_stage_too():
    lost = running(Stage.PREPARE, deletion_timestamp=at(0))
    assert forced(passed(lost, of=status(Phase.PREPARING), now=300)) == ["bot-prepare"]


def test_never_when_the_admin_says_so():
    plan = passed(LOST, of=status(Phase.RESTARTING, message="m"), now=10**6, patience=0)
    assert (forced(plan), plan.requeue_after) == ([], None)


def test_the_impatient_see_why_a_pod_is_lost_before_it_is_gone():
    failed = child(ended="Failed")
    records = (failed, ended(1, reason="Error"), LOST)
    early = passed(*records, now=29, patience=5)
    assert (early.status.phase, forced(early), early.requeue_after) == (Phase.RUNNING, [], 1)
    late = passed(*records, now=30, patience=5)
    assert (late.status.phase, late.status.restarts) == (Phase.RESTARTING, restarts(1, 0))
    assert forced(late) == ["bot-a1-1"]


@pytest.mark.parametrize("pod", [running(), ended(1), running(index=1, deletion_timestamp=at(1000))])
def test_other_pods_are_left_alone(pod):
    assert forced(passed(child(), pod, of=status(), now=600)) == []


def test_a_running_attempt_whose_pod_is_not_ended_starts_anew_and_free():
    records = (child(), running(), LOST)
    early = passed(*records, now=29)
    assert (early.status.phase, early.requeue_after) == (Phase.RUNNING, 1)
    plan = passed(*records, now=300)
    assert (plan.status.phase, plan.status.restarts) == (Phase.RESTARTING, restarts(1, 0))
    assert "Disrupted: node n1 does not end pod bot-a1-1: DeletionByTaintManager" in plan.status.message
    assert [one.name for one in plan.deletes] == ["bot-a1", "bot-a1-1"]
    waiting = passed(child(deletion_timestamp=at(300)), LOST, of=plan.status, now=310)
    assert (waiting.status.phase, waiting.children) == (Phase.RESTARTING, ())
    assert "Job/bot-a2" in created(passed(of=waiting.status, now=330))
