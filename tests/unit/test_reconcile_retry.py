"""Policy retry: counted and free restarts, back-off, and the end of patience with failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_builders import (
    T0,
    at,
    child,
    created,
    ended,
    job,
    observed,
    progress,
    restarts,
    running,
    scene,
    spec,
    status,
)

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import JOB_VARIABLE, Stage, StageInput
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.ending import Action, Verdict
from finetune_operator.reconcile.retry import ready_time, settle

CRASH = Verdict(Action.RETRY, Reason.CRASHED, "boom")
FREE = Verdict(Action.RESTART, Reason.DISRUPTED, "node n0 drained")
FULL = Verdict(Action.SAVE_MEMORY, Reason.OUT_OF_DEVICE_MEMORY, "the GPU's memory did not suffice")
FATAL = Verdict(Action.FAIL, Reason.INVALID_DATA, "line 3 is broken")
FREE_OF_MEMORY = restarts(1, 0, out_of_memory=1)
DONE = (ended(1), ended(1, index=1))


def settled(verdict, before=None, now=60, **changes):
    return settle(scene(of=job(before or status(), spec=spec(**changes)), now=now), verdict)


def restarting(counted=1, *, phase_time=T0, reason=Reason.BACKING_OFF, **changes):
    fields = {
        "restarts": restarts(max(counted, 1), counted),
        "phase_time": phase_time,
        "reason": reason,
        "message": "m",
    }
    return status(Phase.RESTARTING, **{**fields, **changes})


@pytest.mark.parametrize(
    ("verdict", "phase", "reason", "cause", "after"),
    [
        (CRASH, Phase.RESTARTING, Reason.BACKING_OFF, Reason.CRASHED, restarts(1, 1)),
        (FREE, Phase.RESTARTING, Reason.DISRUPTED, Reason.DISRUPTED, restarts(1, 0)),
        (FULL, Phase.RESTARTING, Reason.OUT_OF_DEVICE_MEMORY, Reason.OUT_OF_DEVICE_MEMORY, FREE_OF_MEMORY),
        (FATAL, Phase.FAILED, Reason.INVALID_DATA, None, None),
    ],
)
def test_what_follows_from_a_verdict(verdict, phase, reason, cause, after):
    step = settled(verdict)
    assert (step.phase, step.reason, step.cause) == (phase, reason, cause)
    assert step.changes.get("restarts") == after
    assert verdict.message in step.message
    assert step.children == ()


@pytest.mark.parametrize(
    ("phase", "before", "after"),
    [
        (Phase.PREPARING, restarts(), restarts(1, prepare=1)),
        (Phase.PREPARING, restarts(2, prepare=2), restarts(3, prepare=3)),
        (Phase.RUNNING, restarts(1, prepare=1), restarts(2, prepare=1)),
        (Phase.STARTING, restarts(1), restarts(2)),
        (Phase.EXPORTING, restarts(2, prepare=1), restarts(3, prepare=1, export=1)),
    ],
)
def test_restarts_are_counted_by_stage(phase, before, after):
    assert settled(CRASH, status(phase, restarts=before)).changes["restarts"] == after


@pytest.mark.parametrize(
    ("limit", "counted", "phase"),
    [
        (0, 0, Phase.FAILED),
        (1, 0, Phase.RESTARTING),
        (1, 1, Phase.FAILED),
        (3, 2, Phase.RESTARTING),
        (3, 3, Phase.FAILED),
        (3, 9, Phase.FAILED),  # the limit was lowered meanwhile
    ],
)
def test_failures_are_limited(limit, counted, phase):
    step = settled(CRASH, status(restarts=restarts(counted)), backoffLimit=limit)
    assert step.phase is phase
    if phase is Phase.FAILED:
        assert (step.reason, step.cause) == (Reason.BACKOFF_LIMIT_EXCEEDED, Reason.CRASHED)
        assert step.message == (
            f"attempt 1 failed and all {limit} retries (spec.backoffLimit) are used up; last failure: Crashed: boom"
        )


@pytest.mark.parametrize("total", [0, 50, 5000])
def test_disruptions_are_not_limited(total):
    step = settled(FREE, status(restarts=restarts(total, 0)), backoffLimit=0)
    assert (step.phase, step.changes["restarts"]) == (Phase.RESTARTING, restarts(total + 1, 0))


def test_the_message_names_stage_failure_and_time():
    step = settled(CRASH)
    assert step.message.startswith("attempt 1: Crashed: boom; retry 1 of 3 starts at 09:01:")
    assert step.message.endswith(" UTC")
    assert (
        settled(FREE).message
        == "attempt 1: Disrupted: node n0 drained; the next one starts at once; the restart does not count"
    )
    assert settled(CRASH, status(Phase.PREPARING, restarts=restarts(1, prepare=1))).message.startswith(
        "prepare (try 2): "
    )


@pytest.mark.parametrize(
    ("counted", "middle"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (100, 300)]
)
def test_back_off_doubles_up_to_five_minutes(counted, middle):
    delays = {(ready_time(restarting(counted), uid=f"uid-{n}") - T0).total_seconds() for n in range(200)}
    assert middle * 0.8 - 1 <= min(delays) <= middle * 0.9
    assert middle * 1.1 <= max(delays) <= middle * 1.2 + 1


@given(st.uuids(), st.integers(1, 100))
def test_back_off_is_the_same_in_every_pass(uid, counted):
    assert ready_time(restarting(counted), uid=str(uid)) == ready_time(restarting(counted), uid=str(uid))


@pytest.mark.parametrize("reason", [Reason.DISRUPTED, Reason.STOPPED])
def test_a_free_restart_waits_for_nothing(reason):
    assert ready_time(restarting(0, reason=reason), uid="u") == T0


@pytest.mark.parametrize(("seconds", "pause"), [(0, 10), (59, 10), (60, 0), (3600, 0)])
def test_an_attempt_that_is_disrupted_at_once_is_not_started_at_once(seconds, pause):
    step = settled(FREE, now=seconds)
    assert (step.reason is Reason.BACKING_OFF) is bool(pause)
    assert pause * 0.8 <= step.requeue_after <= pause * 1.2
    assert step.changes["restarts"] == restarts(1, 0)


def test_the_next_attempt_comes_after_the_back_off():
    ready = ready_time(restarting(), uid="uid-1")
    early = reconcile(observed(child(ended="Failed"), *DONE, of=restarting()), at(1))
    assert (early.status.phase, early.status.attempt, early.children) == (Phase.RESTARTING, 1, ())
    assert early.status.message == "m"
    assert early.requeue_after == (ready - at(1)).total_seconds()
    late = reconcile(observed(child(ended="Failed"), *DONE, of=restarting()), ready)
    assert (late.status.phase, late.status.attempt) == (Phase.STARTING, 2)
    assert created(late) == ["Job/bot-a2"]


@pytest.mark.parametrize(
    ("before", "children"),
    [
        (restarting(attempt=0, restarts=restarts(1, prepare=1)), ["Pod/bot-prepare-2"]),
        (restarting(attempt=3, restarts=restarts(2)), ["Job/bot-a4"]),
        (restarting(attempt=3, stage="export", restarts=restarts(2, export=2)), ["Pod/bot-export-3"]),
    ],
)
def test_each_stage_starts_anew_under_another_name(before, children):
    plan = reconcile(observed(of=before), at(1000))
    assert created(plan) == children


@pytest.mark.parametrize(
    "lingering", [running(index=1), running(index=1, deletion_timestamp=at(-1000)), running(Stage.PREPARE)]
)
def test_no_attempt_while_a_pod_of_the_last_one_lives(lingering):
    plan = reconcile(observed(child(ended="Failed"), ended(1), lingering, of=restarting()), at(1000))
    assert (plan.status.phase, plan.status.attempt, plan.children) == (Phase.RESTARTING, 1, ())
    assert lingering.name in plan.status.message


def test_a_crash_leads_to_a_restart():
    plan = reconcile(observed(child(ended="Failed"), ended(137), ended(1, index=1, after=11), of=status()), at(20))
    assert (plan.status.phase, plan.status.reason) == (Phase.RESTARTING, Reason.BACKING_OFF)
    assert plan.status.restarts == restarts(1)
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "Crashed")
    assert plan.deletes == ()  # what ended stays for its log


def test_what_is_not_known_any_more_is_not_shown_while_restarting():
    known = progress(40, attempt=1, eta="5m00s", estimated_remaining_seconds=300, tokens_per_second=9.0)
    step = settled(CRASH, status(progress=known))
    kept = step.changes["progress"]
    assert (kept.step, kept.step_text) == (40, "40/100")
    assert (kept.eta, kept.estimated_remaining_seconds, kept.tokens_per_second) == (None, None, None)


def test_a_job_somebody_deleted_is_a_disruption():
    for records in ((), (child(deletion_timestamp=at(1)), running())):
        plan = reconcile(observed(*records, of=status()), at(200))
        assert (plan.status.phase, plan.status.reason) == (Phase.RESTARTING, Reason.DISRUPTED)
        assert "somebody deleted Job bot-a1" in plan.status.message


def test_an_attempt_that_ran_out_of_memory_is_followed_at_once_by_one_that_is_told():
    before = status(attempt=3, restarts=restarts(2, 0, out_of_memory=2), phase_time=at(50))
    ends = (child(3, ended="Failed"), ended(65, attempt=3), ended(1, attempt=3, index=1))
    plan = reconcile(observed(*ends, of=job(before)), at(60))
    assert "the next one, with a plan that needs less memory, starts at once" in plan.status.message
    assert plan.status.restarts == restarts(3, 0, out_of_memory=3)
    follow = reconcile(observed(*ends[1:], of=job(plan.status)), at(61))
    told = [stage_input(child) for child in follow.children if child["kind"] == "Job"]
    assert [(one.attempt, one.out_of_memory) for one in told] == [(4, 3)]


def stage_input(job):
    [container] = job["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    return StageInput.model_validate_json(variables[JOB_VARIABLE])
