"""A step becomes a plan: phase, times, conditions, Events."""

import pytest
from reconcile_builders import (
    T0,
    at,
    checkpoint,
    child,
    ended,
    job,
    observed,
    pod,
    progress,
    restarts,
    running,
    said,
    sample,
    status,
)

from finetune_api.reasons import ConditionType, Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.scene import Step
from finetune_operator.reconcile.status import clip, close


def closed(step_phase, *records, before=None, now=60, reason=None, **changes):
    seen = observed(*records, of=before or status(Phase.STARTING))
    own = Reason.CRASHED if step_phase is Phase.FAILED else reason or Reason(step_phase.value)
    step = Step(phase=step_phase, reason=reason or own, message="m", **changes)
    return close(seen, seen.job.status, step=step, now=at(now))


def conditions(plan):
    return {one.type: one.status for one in plan.status.conditions}


def condition(plan, kind):
    return next(one for one in plan.status.conditions if one.type is kind)


def test_phase_time_moves_with_the_phase_alone():
    assert closed(Phase.STARTING).status.phase_time == T0
    assert closed(Phase.RUNNING).status.phase_time == at(60)


@pytest.mark.parametrize(
    ("phase", "time"), [(Phase.RUNNING, None), (Phase.FAILED, at(60)), (Phase.SUCCEEDED, at(60))]
)
def test_completion_time(phase, time):
    assert closed(phase).status.completion_time == time


def test_start_time_is_set_once():
    assert closed(Phase.RUNNING).status.start_time == T0


def test_observed_generation_follows():
    assert closed(Phase.RUNNING, before=job(status(), generation=7)).status.observed_generation == 7


@pytest.mark.parametrize(
    ("phase", "kind", "reason"),
    [
        (Phase.RUNNING, "Normal", "Running"),
        (Phase.EXPORTING, "Normal", "Exporting"),
        (Phase.SUCCEEDED, "Normal", "Succeeded"),
        (Phase.FAILED, "Warning", "Crashed"),
    ],
)
def test_an_event_for_each_change_of_phase(phase, kind, reason):
    (event,) = closed(phase).events
    assert (event.type, event.reason, event.message) == (kind, reason, "m")
    assert closed(Phase.STARTING).events == ()


def test_the_event_of_a_restart_names_the_cause():
    (event,) = closed(Phase.RESTARTING, reason=Reason.BACKING_OFF, cause=Reason.CRASHED).events
    assert (event.type, event.reason) == ("Warning", "Crashed")


def test_the_event_of_the_end_names_the_end():
    (event,) = closed(Phase.FAILED, reason=Reason.BACKOFF_LIMIT_EXCEEDED, cause=Reason.CRASHED).events
    assert event.reason == "BackoffLimitExceeded"


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("12345", "12345"), ("123456", "1234…")])
def test_clip(text, cut):
    assert clip(text, 5) == cut


def test_long_messages_are_cut_for_status_and_event():
    seen = observed(of=status())
    plan = close(
        seen, seen.job.status, step=Step(phase=Phase.FAILED, reason=Reason.CRASHED, message="x" * 9000), now=T0
    )
    assert (len(plan.status.message), len(plan.events[0].message)) == (4096, 1000)


def test_last_transition_time_moves_with_the_status_alone():
    first = closed(Phase.RUNNING, now=10)
    second = closed(Phase.RUNNING, before=first.status, now=500)
    assert second.status.conditions == first.status.conditions
    third = closed(Phase.RESTARTING, before=second.status, now=600, reason=Reason.BACKING_OFF)
    assert condition(third, ConditionType.RUNNING).last_transition_time == at(600)
    assert condition(third, ConditionType.VALID).last_transition_time == at(10)


def test_conditions_are_in_one_order_and_unique():
    plan = closed(Phase.FAILED, before=closed(Phase.RUNNING).status)
    kinds = [one.type for one in plan.status.conditions]
    assert kinds == [kind for kind in ConditionType if kind in kinds]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
    ("pods", "phase", "expected"),
    [
        ((), Phase.PREPARING, "False"),
        ((pod(), pod(index=1)), Phase.STARTING, "False"),
        ((running(), pod(index=1)), Phase.STARTING, "False"),
        ((running(), pod(index=1, node="n1")), Phase.STARTING, "True"),
        ((running(), running(index=1)), Phase.RUNNING, "True"),
    ],
)
def test_scheduled(pods, phase, expected):
    before = status(Phase.PENDING) if phase is Phase.PREPARING else status(Phase.STARTING, nodes=2)
    assert conditions(closed(phase, *pods, before=before))[ConditionType.SCHEDULED] == expected


def test_a_stage_of_one_pod_was_scheduled_when_the_job_ends_with_it():
    before = closed(Phase.PREPARING, before=status(Phase.PENDING)).status
    assert conditions(closed(Phase.FAILED, before=before))[ConditionType.SCHEDULED] == "False"
    told = reconcile(observed(ended(64, Stage.PREPARE), of=before), at(9))
    assert told.status.phase is Phase.FAILED
    assert conditions(told)[ConditionType.SCHEDULED] == "True"


def test_scheduled_says_no_again_for_the_next_attempt():
    before = closed(Phase.RUNNING).status
    back = closed(Phase.RESTARTING, before=before, reason=Reason.BACKING_OFF)
    assert conditions(back)[ConditionType.SCHEDULED] == "True"
    again = closed(Phase.STARTING, before=back.status, changes={"attempt": 2})
    assert conditions(again)[ConditionType.SCHEDULED] == "False"


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Reason.INVALID_SPEC, ConditionType.VALID),
        (Reason.BUCKET_NOT_FOUND, ConditionType.STORAGE_READY),
        (Reason.OBJECT_NOT_FOUND, ConditionType.STORAGE_READY),
        (Reason.STORAGE_ACCESS_DENIED, ConditionType.STORAGE_READY),
        (Reason.STORAGE_UNREACHABLE, ConditionType.STORAGE_READY),
        (Reason.STORAGE_FAILED, ConditionType.STORAGE_READY),
        (Reason.INVALID_DATA, ConditionType.DATA_READY),
    ],
)
def test_a_failure_shows_in_the_condition_it_is_about(cause, kind):
    before = status(Phase.PREPARING)
    for plan in (
        closed(Phase.FAILED, before=before, reason=cause),
        closed(Phase.RESTARTING, before=before, reason=Reason.BACKING_OFF, cause=cause),
    ):
        assert (condition(plan, kind).status, condition(plan, kind).reason) == ("False", cause)
        kept = closed(plan.status.phase, before=plan.status, reason=plan.status.reason)
        assert kind is ConditionType.VALID or condition(kept, kind).status == "False"


def test_a_prepared_job_has_its_storage_and_data():
    done = ended(0, Stage.PREPARE, told=said(Reason.SUCCEEDED))
    plan = reconcile(observed(done, of=status(Phase.PREPARING)), at(9))
    assert conditions(plan) == {
        ConditionType.VALID: "True",
        ConditionType.STORAGE_READY: "True",
        ConditionType.DATA_READY: "True",
        ConditionType.SCHEDULED: "False",
        ConditionType.RUNNING: "False",
    }


def test_storage_that_failed_is_ready_again_when_the_next_attempt_reports():
    lost = closed(Phase.RESTARTING, before=status(), reason=Reason.BACKING_OFF, cause=Reason.STORAGE_FAILED).status
    waiting = closed(Phase.STARTING, before=lost, changes={"attempt": 2}).status
    silent = closed(Phase.RUNNING, before=waiting)
    assert conditions(silent)[ConditionType.STORAGE_READY] == "False"
    speaking = closed(Phase.RUNNING, before=waiting, changes={"progress": progress(3, attempt=2)})
    assert conditions(speaking)[ConditionType.STORAGE_READY] == "True"


def test_checkpointed_names_the_step():
    plan = closed(Phase.RUNNING, before=status(last_checkpoint=checkpoint(40)))
    assert condition(plan, ConditionType.CHECKPOINTED).message == "step 40 is committed"
    assert ConditionType.CHECKPOINTED not in conditions(closed(Phase.RUNNING))


@pytest.mark.parametrize(
    ("phase", "succeeded", "failed"), [(Phase.SUCCEEDED, "True", "False"), (Phase.FAILED, "False", "True")]
)
def test_the_end_is_told_both_ways(phase, succeeded, failed):
    found = conditions(closed(phase))
    assert (found[ConditionType.SUCCEEDED], found[ConditionType.FAILED]) == (succeeded, failed)
    assert found[ConditionType.RUNNING] == "False"


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.EXPORTING])
def test_the_end_is_not_told_before_it(phase):
    assert not {ConditionType.SUCCEEDED, ConditionType.FAILED} & conditions(closed(phase)).keys()


def test_times_are_whole_seconds():
    plan = reconcile(observed(), T0.replace(microsecond=123456))
    assert plan.status.start_time == plan.status.phase_time == T0


def test_a_status_survives_the_wire():
    from finetune_operator.model import parse_status

    before = status(restarts=restarts(1), last_checkpoint=checkpoint(3))
    plan = reconcile(observed(child(), running(), running(index=1), sample(41), of=before), at(9))
    assert parse_status(plan.status.to_wire()) == plan.status
