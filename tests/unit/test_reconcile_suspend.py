"""Policies suspend and run identity: stop, keep, go on, or begin another run."""

import pytest
from reconcile_builders import (
    at,
    checkpoint,
    child,
    created,
    ended,
    job,
    observed,
    pod,
    progress,
    restarts,
    running,
    said,
    spec,
    status,
)

from finetune_api.reasons import ConditionType, Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.run_identity import run_digest
from finetune_operator.reconcile.validate import parse_spec

DIGEST = run_digest(parse_spec(spec()), spec())


def passed(*records, of, suspend=True, now=60.0, generation=1, **changes):
    about = job(of, spec=spec(suspend=suspend, **changes), generation=generation)
    return reconcile(observed(*records, of=about), at(now))


def suspended(stage=Stage.TRAIN, **changes):
    fields = {"reason": Reason.SUSPENDED, "stage": stage.value, "run_digest": DIGEST, "message": "m"}
    return status(Phase.SUSPENDED, **{"attempt": 1 if stage is not Stage.PREPARE else 0, **fields, **changes})


@pytest.mark.parametrize(
    ("before", "records", "deleted"),
    [
        (status(Phase.PREPARING), (running(Stage.PREPARE),), [("Pod", "bot-prepare")]),
        (status(Phase.QUEUED), (child(suspended=True),), [("Job", "bot-a1")]),
        (status(Phase.STARTING), (child(), pod(), pod(index=1)), [("Job", "bot-a1")]),
        (status(Phase.RUNNING), (child(), running(), running(index=1)), [("Job", "bot-a1")]),
        (status(Phase.EXPORTING), (running(Stage.EXPORT),), [("Pod", "bot-export")]),
    ],
)
def test_what_runs_is_told_to_end(before, records, deleted):
    plan = passed(*records, of=before)
    assert (plan.status.phase, plan.status.reason) == (Phase.SUSPENDED, Reason.SUSPENDING)
    assert [(one.kind, one.name) for one in plan.deletes] == deleted
    assert plan.children == ()
    assert plan.status.stage == before.stage
    (event,) = plan.events
    assert (event.type, event.reason) == ("Normal", "Suspending")


@pytest.mark.parametrize("before", [status(Phase.PENDING), status(Phase.PREPARING), status(Phase.RESTARTING)])
def test_a_job_of_which_nothing_runs_is_suspended_at_once(before):
    plan = passed(of=before)
    assert (plan.status.phase, plan.status.reason) == (Phase.SUSPENDED, Reason.SUSPENDED)
    assert (plan.children, plan.deletes) == ((), ())
    assert {one.type: one.status for one in plan.status.conditions}[ConditionType.SUSPENDED] == "True"


def test_a_suspended_job_that_nobody_touches_changes_nothing():
    plan = passed(of=passed(of=suspended()).status, now=90_000)
    assert plan.status == passed(of=suspended()).status
    assert (plan.children, plan.deletes, plan.events, plan.requeue_after) == ((), (), (), None)


def test_the_pods_of_a_deleted_job_are_waited_for_and_heard():
    leaving = running(index=1, deletion_timestamp=at(180))
    told = said(Reason.STOPPED, progress=progress(40), last_checkpoint=checkpoint(40))
    gone = child(deletion_timestamp=at(60))
    plan = passed(gone, ended(75, told=told), leaving, of=suspended(reason=Reason.SUSPENDING))
    assert (plan.status.reason, plan.deletes) == (Reason.SUSPENDING, ())
    assert plan.status.last_checkpoint == checkpoint(40)
    later = passed(ended(75, told=told), of=plan.status)
    assert later.status.reason is Reason.SUSPENDED
    assert later.status.message == "spec.suspend is set; set it to false to go on from step 40"


@pytest.mark.parametrize(
    ("before", "records", "stage", "attempt"),
    [
        (status(Phase.PREPARING), (ended(0, Stage.PREPARE),), "train", 0),
        (status(Phase.RUNNING), (child(ended="Complete"), ended(0), ended(0, index=1)), "export", 1),
    ],
)
def test_a_stage_that_ended_well_just_then_counts(before, records, stage, attempt):
    plan = passed(*records, of=before)
    assert (plan.status.phase, plan.status.stage, plan.status.attempt) == (Phase.SUSPENDED, stage, attempt)
    assert plan.children == ()


def test_a_result_that_is_written_just_then_is_success():
    assert passed(ended(0, Stage.EXPORT), of=status(Phase.EXPORTING)).status.phase is Phase.SUCCEEDED


def test_a_failure_just_then_is_settled_first():
    plan = passed(child(ended="Failed"), ended(1), ended(1, index=1), of=status())
    assert (plan.status.phase, plan.status.restarts) == (Phase.RESTARTING, restarts(1))
    assert passed(child(ended="Failed"), ended(1), of=plan.status).status.phase is Phase.SUSPENDED
    fatal = passed(child(ended="Failed"), ended(64), ended(1, index=1), of=status())
    assert fatal.status.phase is Phase.FAILED


@pytest.mark.parametrize(
    ("before", "phase", "attempt", "children"),
    [
        (suspended(Stage.PREPARE), Phase.PREPARING, 0, "Pod/bot-prepare"),
        (suspended(), Phase.STARTING, 2, "Job/bot-a2"),
        (suspended(attempt=0), Phase.STARTING, 1, "Job/bot-a1"),
        (suspended(Stage.EXPORT), Phase.EXPORTING, 1, "Pod/bot-export"),
        (suspended(Stage.EXPORT, restarts=restarts(1, export=1)), Phase.EXPORTING, 1, "Pod/bot-export-2"),
    ],
)
def test_a_job_goes_on_where_it_was(before, phase, attempt, children):
    plan = passed(of=before, suspend=False)
    assert (plan.status.phase, plan.status.attempt) == (phase, attempt)
    assert children in created(plan)
    assert plan.status.restarts == before.restarts
    assert plan.status.run_id == "uid-1"
    (event,) = plan.events
    assert (event.type, event.reason) == ("Normal", "Resumed")
    again = passed(of=plan.status, suspend=False, now=61)
    assert (again.status, created(again)) == (plan.status, created(plan))


def test_the_condition_says_that_it_went_on():
    before = passed(of=suspended()).status
    found = {one.type: one for one in passed(of=before, suspend=False).status.conditions}[ConditionType.SUSPENDED]
    assert (found.status, found.reason) == ("False", Reason.RESUMED)


@pytest.mark.parametrize("lingering", [running(), child(), child(deletion_timestamp=at(1)), running(Stage.PREPARE)])
def test_nothing_new_starts_while_something_old_lives(lingering):
    plan = passed(lingering, of=suspended(), suspend=False)
    assert (plan.status.phase, plan.status.reason, plan.children) == (Phase.SUSPENDED, Reason.SUSPENDING, ())
    assert lingering.name in plan.status.message


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"learningRate": 1e-5}},
        {"data": {"maxLength": 64}},
        {"model": {"uri": "s3://models/other/"}},
        {"method": {"type": "full"}},
        {"distributed": {"numNodes": 4}, "training": {"optimizer": {"type": "adamw8bit"}}},
        {"checkpoint": {"uri": "s3://runs/other/"}},
    ],
)
def test_a_field_that_defines_the_run_begins_another_one(changes):
    counts = restarts(1, out_of_memory=1)
    known = {"progress": progress(40, attempt=1), "last_checkpoint": checkpoint(40), "restarts": counts}
    before = passed(of=suspended(**known)).status
    assert ConditionType.CHECKPOINTED in {one.type for one in before.conditions}
    plan = passed(of=before, suspend=False, generation=7, **changes)
    assert (plan.status.phase, plan.status.stage, plan.status.run_id) == (Phase.PREPARING, "prepare", "uid-1-7")
    assert "Pod/bot-prepare-2" in created(plan)
    assert (plan.status.progress, plan.status.last_checkpoint) == (None, None)
    assert not {ConditionType.CHECKPOINTED, ConditionType.DATA_READY} & {one.type for one in plan.status.conditions}
    assert plan.status.restarts == restarts(1, prepare=1)
    prepared = passed(ended(0, Stage.PREPARE, 2), of=plan.status, suspend=False, generation=7, **changes)
    assert (prepared.status.attempt, prepared.status.phase) == (2, Phase.STARTING)


@pytest.mark.parametrize(
    "changes",
    [
        {"podTemplate": {"resources": {"limits": {"memory": "8Gi"}}}},
        {"evaluation": {"everySteps": 10}},
        {"backoffLimit": 9},
        {"distributed": {"numNodes": 4}},
        {"distributed": {"zeroStage": 3}},
        {"training": {"microBatchSize": 2}},
        {"training": {"activationCheckpointing": "on"}},
        {"output": {"uri": "s3://models/elsewhere/"}},
        {"data": {"maxLength": 2048}},  # the default, written out
    ],
)
def test_any_other_field_applies_to_the_next_attempt_of_the_same_run(changes):
    plan = passed(of=suspended(), suspend=False, **changes)
    assert (plan.status.phase, plan.status.attempt, plan.status.run_id) == (Phase.STARTING, 2, "uid-1")


def test_processes_whose_state_cannot_be_divided_anew_have_to_stay():
    eight_bit = {"training": {"optimizer": {"type": "adamw8bit"}}}
    known = run_digest(parse_spec(spec(**eight_bit)), spec(**eight_bit))
    same = passed(of=suspended(run_digest=known), suspend=False, generation=3, **eight_bit)
    other = passed(
        of=suspended(run_digest=known), suspend=False, generation=3, distributed={"numNodes": 4}, **eight_bit
    )
    assert (same.status.run_id, other.status.run_id) == ("uid-1", "uid-1-3")


def test_a_job_that_never_began_takes_the_spec_it_has_when_it_begins():
    held = passed(of=status(Phase.PENDING, run_id=None))
    assert (held.status.phase, held.status.run_id) == (Phase.SUSPENDED, None)
    plan = passed(of=held.status, suspend=False, generation=5, training={"learningRate": 1e-5})
    assert (plan.status.run_id, "Pod/bot-prepare" in created(plan)) == ("uid-1", True)


def test_time_spent_suspended_does_not_count_for_the_deadline():
    before = suspended(phase_time=at(100), active_since=at(0))
    plan = passed(of=before, suspend=False, now=400, activeDeadlineSeconds=200)
    assert plan.status.phase is Phase.STARTING
    assert plan.status.active_since == at(300)


def test_a_release_that_adds_a_field_or_changes_a_default_begins_no_run_anew():
    stored, chosen = DIGEST.split()
    for known in (f"{stored} another", f"another {chosen}"):
        assert passed(of=suspended(run_digest=known), suspend=False).status.run_id == "uid-1"
    assert passed(of=suspended(run_digest="one another"), suspend=False, generation=3).status.run_id == "uid-1-3"
