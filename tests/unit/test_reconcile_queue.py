"""The contract with a queue: it lets the training Job go, it may take the place back, and nobody else does."""

import pytest
from reconcile_builders import at, child, ended, job, observed, pod, restarts, running, spec, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile

LABELS = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high"}
QUEUED = child(suspended=True)
PODS = (running(), running(index=1))


def passed(*records, of, now=60.0, labels=LABELS, **changes):
    return reconcile(observed(*records, of=job(of, labels=labels, spec=spec(**changes))), at(now))


def manifest(plan, kind):
    return next(one for one in plan.children if one["kind"] == kind)


def test_training_waits_in_its_queue_and_prepare_does_not():
    begun = passed(of=status(Phase.PENDING))
    assert begun.status.phase is Phase.PREPARING
    assert not LABELS.keys() & manifest(begun, "Pod")["metadata"]["labels"].keys()
    plan = passed(ended(0, Stage.PREPARE), of=status(Phase.PREPARING))
    assert (plan.status.phase, plan.status.reason, plan.status.attempt) == (Phase.QUEUED, Reason.QUEUED, 1)
    assert plan.status.message.startswith("queue gpus has not admitted the training attempt")
    made = manifest(plan, "Job")
    assert made["spec"]["suspend"] is True
    assert LABELS.items() <= made["metadata"]["labels"].items()


def test_without_a_queue_nothing_is_suspended():
    plan = passed(ended(0, Stage.PREPARE), of=status(Phase.PREPARING), labels={})
    assert plan.status.phase is Phase.STARTING
    assert not manifest(plan, "Job")["spec"].get("suspend")


def test_the_queue_has_all_the_time_it_needs():
    before = passed(QUEUED, of=status(Phase.QUEUED)).status
    plan = passed(QUEUED, of=before, now=10**6, preRunningDeadlineSeconds=60)
    assert plan.status == before
    assert (plan.children, plan.deletes) == ((), ())


def test_patience_begins_when_it_is_admitted():
    admitted = passed(child(), of=status(Phase.QUEUED), now=5000, preRunningDeadlineSeconds=60)
    assert (admitted.status.phase, admitted.status.phase_time) == (Phase.STARTING, at(5000))
    assert passed(child(), *PODS, of=admitted.status, now=5010).status.phase is Phase.RUNNING
    late = passed(child(), pod(), of=admitted.status, now=5060, preRunningDeadlineSeconds=60)
    assert late.status.phase is Phase.FAILED


def test_a_place_taken_back_before_the_pods_ran_costs_nothing():
    plan = passed(QUEUED, of=status(Phase.STARTING))
    assert (plan.status.phase, plan.status.restarts, plan.deletes) == (Phase.QUEUED, restarts(), ())


@pytest.mark.parametrize("pods", [PODS, ()])
def test_preemption_is_a_free_restart_that_queues_again(pods):
    plan = passed(QUEUED, *pods, of=status(Phase.RUNNING))
    assert (plan.status.phase, plan.status.reason, plan.status.restarts) == (
        Phase.RESTARTING,
        Reason.PREEMPTED,
        restarts(1, 0),
    )
    assert [(one.kind, one.name) for one in plan.deletes] == [("Job", "bot-a1")]
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "Preempted")
    again = passed(of=plan.status, now=70)
    assert (again.status.phase, again.status.attempt) == (Phase.QUEUED, 2)
    assert manifest(again, "Job")["spec"]["suspend"] is True


def test_pods_that_the_queue_stopped_and_that_committed_are_a_free_restart_too():
    plan = passed(child(ended="Failed"), ended(75), ended(75, index=1), of=status(Phase.RUNNING))
    assert (plan.status.phase, plan.status.restarts) == (Phase.RESTARTING, restarts(1, 0))
