"""Policy launch: which Job is created, and when."""

import pytest
from reconcile_builders import at, child, created, ended, job, observed, pod, restarts, running, scene, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.launch import launch


@pytest.mark.parametrize(
    ("stage", "attempt", "phase", "children"),
    [
        (Stage.PREPARE, 1, Phase.PREPARING, ["Pod/bot-prepare"]),
        (Stage.PREPARE, 2, Phase.PREPARING, ["Pod/bot-prepare-2"]),
        (Stage.TRAIN, 1, Phase.STARTING, ["Job/bot-a1"]),
        (Stage.TRAIN, 4, Phase.STARTING, ["Job/bot-a4"]),
        (Stage.EXPORT, 1, Phase.EXPORTING, ["Pod/bot-export"]),
    ],
)
def test_a_stage_begins_with_its_phase_and_its_job(stage, attempt, phase, children):
    step = launch(scene(), stage, attempt)
    assert (step.phase, step.reason) == (phase, Reason(phase.value))
    assert [f"{one['kind']}/{one['metadata']['name']}" for one in step.children] == children
    assert step.changes == {"stage": stage.value, **({"attempt": attempt} if stage is Stage.TRAIN else {})}


@pytest.mark.parametrize(
    ("records", "may"),
    [
        ((), True),
        ((ended(0, Stage.PREPARE),), True),
        ((ended(1),), True),
        ((running(),), False),
        ((pod(),), False),
        ((ended(1), running(index=1)), False),
        ((running(index=1, deletion_timestamp=at(30)),), False),
        ((running(Stage.PREPARE),), False),
        ((pod(phase="Unknown", node="n0"),), False),
        ((child(attempt=2),), False),  # it is there
        ((child(attempt=1),), False),  # it could still make pods
        ((child(attempt=1, ended="Failed"),), True),
    ],
)
def test_a_job_waits_for_every_pod_that_lives(records, may):
    assert bool(launch(scene(*records), Stage.TRAIN, 2).children) is may


def test_the_message_names_who_is_waited_for():
    step = launch(scene(running(index=1, deletion_timestamp=at(30))), Stage.TRAIN, 2)
    assert "bot-a1-1 on node n1" in step.message
    assert "kubectl delete pod --force" in step.message


def test_a_new_job_is_prepared():
    plan = reconcile(observed(), at(0))
    assert (plan.status.phase, plan.status.reason) == (Phase.PREPARING, Reason.PREPARING)
    assert created(plan) == ["Pod/bot-prepare"]
    assert plan.status.start_time == plan.status.phase_time == at(0)
    assert plan.status.observed_generation == 1
    assert plan.status.nodes == 2
    assert plan.requeue_after == 30


@pytest.mark.parametrize(
    ("before", "children"),
    [
        (status(Phase.PREPARING), ["Pod/bot-prepare"]),
        (status(Phase.PREPARING, restarts=restarts(1, prepare=1)), ["Pod/bot-prepare-2"]),
        (status(Phase.STARTING, attempt=3), ["Job/bot-a3"]),
        (status(Phase.EXPORTING), ["Pod/bot-export"]),
        (status(Phase.EXPORTING, restarts=restarts(4, export=2)), ["Pod/bot-export-3"]),
    ],
)
def test_a_job_that_was_planned_and_is_not_there_is_planned_again(before, children):
    plan = reconcile(observed(of=before), at(5))
    assert created(plan) == children
    assert (plan.status.phase, plan.status.attempt) == (before.phase, before.attempt)
    assert plan.events == ()


def test_the_number_of_the_attempt_comes_with_its_job():
    plan = reconcile(observed(ended(0, Stage.PREPARE), of=status(Phase.PREPARING)), at(5))
    assert plan.status.attempt == 1
    assert created(plan) == ["Job/bot-a1"]


def test_a_job_that_is_being_deleted_is_left_alone():
    plan = reconcile(observed(child(), of=job(status(), deleting=True)), at(5))
    assert plan.status == status()
    assert (plan.children, plan.deletes, plan.events) == ((), (), ())


def test_a_job_whose_status_was_lost_takes_up_what_is_there():
    plan = reconcile(observed(running(Stage.PREPARE)), at(5))
    assert plan.status.phase is Phase.PREPARING
    assert plan.children == ()
