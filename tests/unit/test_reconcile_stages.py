"""Policies prepare, training, export, success and failure: from stage to stage, and the two ends."""

from dataclasses import replace

import pytest
from reconcile_builders import (
    SETTINGS,
    at,
    child,
    created,
    ended,
    observed,
    pod,
    progress,
    restarts,
    running,
    said,
    status,
)

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_api.status import EvaluationResult, OutputResult, Scores
from finetune_operator.reconcile import reconcile
from finetune_operator.reconcile.failure import fail, unfinished

PREPARED = (ended(0, Stage.PREPARE),)
TRAINED = (child(ended="Complete"), ended(0), ended(0, index=1))
EXPORTED = (ended(0, Stage.EXPORT),)
BEFORE = {Stage.PREPARE: Phase.PREPARING, Stage.TRAIN: Phase.RUNNING, Stage.EXPORT: Phase.EXPORTING}


def passed(*records, of, now=60.0, settings=SETTINGS):
    return reconcile(observed(*records, of=of, settings=settings), at(now))


@pytest.mark.parametrize(
    ("records", "before", "phase", "children"),
    [
        (PREPARED, status(Phase.PREPARING), Phase.STARTING, ["Job/bot-a1"]),
        (TRAINED, status(Phase.RUNNING), Phase.EXPORTING, ["Pod/bot-export"]),
        (TRAINED, status(Phase.STARTING), Phase.EXPORTING, ["Pod/bot-export"]),  # it ran between two looks
        (EXPORTED, status(Phase.EXPORTING), Phase.SUCCEEDED, []),
    ],
)
def test_a_stage_that_is_done_leads_to_the_next(records, before, phase, children):
    plan = passed(*records, of=before)
    assert (plan.status.phase, created(plan), plan.deletes) == (phase, children, ())
    assert plan.events[0].type == "Normal"


def test_training_is_done_when_kubernetes_says_so_and_not_before():
    plan = passed(child(succeeded=2), ended(0), ended(0, index=1), of=status())
    assert plan.status.phase is Phase.RUNNING


def test_a_training_pod_that_failed_is_judged_with_its_job_and_not_before():
    before = status(message="m")
    plan = passed(child(failed=1), ended(1), running(index=1), of=before)
    assert (plan.status.phase, plan.status.message, plan.children) == (Phase.RUNNING, "m", ())


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_the_pod_of_a_stage_is_judged_at_once(stage):
    plan = passed(ended(1, stage), of=status(BEFORE[stage]))
    assert (plan.status.phase, plan.status.reason) == (Phase.RESTARTING, Reason.BACKING_OFF)


@pytest.mark.parametrize("condition", ["Failed", "FailureTarget"])
def test_a_failed_job_is_judged_when_its_pods_have_ended(condition):
    records = (child(ended=condition), ended(1))
    early = passed(*records, running(index=1, deletion_timestamp=at(100)), of=status())
    assert early.status.phase is Phase.RUNNING
    assert early.status.message.startswith("waits for the end of bot-a1-1 on node n1")
    assert early.requeue_after == 70  # until the pod counts as lost
    late = passed(*records, ended(65, index=1), of=status())
    assert late.status.reason is Reason.OUT_OF_DEVICE_MEMORY


def test_a_pod_whose_node_is_lost_does_not_hold_the_verdict_but_the_next_attempt():
    lost = running(index=1, deletion_timestamp=at(0), disruption="DeletionByTaintManager")
    first = passed(child(ended="FailureTarget"), ended(1), lost, of=status(), now=131)
    assert (first.status.phase, first.status.reason) == (Phase.RESTARTING, Reason.DISRUPTED)
    held = passed(child(ended="FailureTarget"), ended(1), lost, of=first.status, now=160)
    assert (held.status.phase, held.children) == (Phase.RESTARTING, ())
    assert "delete its Node object" in held.status.message
    freed = passed(child(ended="Failed"), ended(1), of=held.status, now=190)
    assert created(freed) == ["Job/bot-a2"]


def test_a_complete_job_waits_for_the_last_words_of_its_pods():
    plan = passed(child(ended="Complete"), ended(0), running(index=1), of=status(message="m"))
    assert (plan.status.phase, plan.status.message, plan.requeue_after) == (Phase.RUNNING, "m", None)


def test_a_complete_job_whose_pods_are_gone_still_counts():
    assert passed(child(ended="Complete"), of=status()).status.phase is Phase.EXPORTING


@pytest.mark.parametrize(
    ("pods", "phase"),
    [
        ((running(), running(index=1)), Phase.RUNNING),
        ((running(), ended(0, index=1)), Phase.RUNNING),
        ((running(), pod(index=1)), Phase.STARTING),
        ((running(),), Phase.STARTING),
        ((), Phase.STARTING),
    ],
)
def test_an_attempt_runs_when_all_its_pods_do(pods, phase):
    plan = passed(child(), *pods, of=status(Phase.STARTING))
    assert plan.status.phase is phase


@pytest.mark.parametrize("pods", [(running(),), (), (running(), pod(index=1))])
def test_a_running_attempt_never_goes_back_to_starting(pods):
    assert passed(child(), *pods, of=status()).status.phase is Phase.RUNNING


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_one_sentence_serves_from_creation_to_end(stage):
    begun = passed(of=status(BEFORE[stage]), now=1).status
    creating = passed(pod(stage), of=begun, now=2).status
    runs = passed(running(stage), of=creating, now=3).status
    assert begun.message == creating.message == runs.message
    assert runs.message.startswith(f"pod bot-{stage.value} ")


def scores(loss):
    return Scores(loss=loss, perplexity=1.0, token_accuracy=0.5, tokens=1)


@pytest.mark.parametrize(
    ("output", "evaluation", "message"),
    [
        (None, None, "the tuned model is at s3://models/bot/"),
        (OutputResult(uri="s3://m/", step=1, digest="d"), None, "the tuned model is at s3://m/"),
        (
            OutputResult(uri="s3://m/", adapter_uri="s3://m/adapter/", step=1, digest="d"),
            None,
            "the tuned model is at s3://m/adapter/",
        ),
        (
            OutputResult(
                uri="s3://m/", adapter_uri="s3://m/adapter/", merged_uri="s3://m/merged/", step=1, digest="d"
            ),
            EvaluationResult(base=scores(3.25), tuned=scores(0.5)),
            "the tuned model is at s3://m/merged/; test loss 3.25 -> 0.5",
        ),
        (None, EvaluationResult(tuned=scores(0.123456)), "the tuned model is at s3://models/bot/; test loss 0.1235"),
        (None, EvaluationResult(base=scores(2.0)), "the tuned model is at s3://models/bot/"),
    ],
)
def test_success_names_the_result(output, evaluation, message):
    pod_told = said(Reason.SUCCEEDED, **({"output": output} if output else {}))
    before = status(Phase.EXPORTING, evaluation=evaluation)
    plan = passed(ended(0, Stage.EXPORT, told=pod_told), of=before)
    assert (plan.status.phase, plan.status.reason, plan.status.message) == (
        Phase.SUCCEEDED,
        Reason.SUCCEEDED,
        message,
    )
    assert plan.status.output == output
    assert plan.status.completion_time == at(60)


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED])
@pytest.mark.parametrize(
    "records",
    [(), PREPARED, TRAINED, EXPORTED, (child(ended="Failed"), ended(1)), (child(ended="Failed"), running())],
)
def test_a_job_that_has_ended_stays_as_it_is(phase, records):
    before = status(phase)
    plan = passed(*records, of=before)
    assert plan.status == before
    assert (plan.children, plan.deletes, plan.events, plan.requeue_after) == ((), (), (), None)


def test_what_still_runs_after_the_end_is_deleted_whenever_it_is_seen():
    plan = passed(child(), running(), of=status(Phase.FAILED))
    assert [one.name for one in plan.deletes] == ["bot-a1"]


@pytest.mark.parametrize(
    ("record", "deleted"),
    [
        (child(), True),
        (child(active=2), True),
        (child(ended="Complete"), False),
        (child(ended="Failed"), False),
        (child(ended="FailureTarget"), False),  # Kubernetes ends its pods; their logs stay
        (child(ended="SuccessCriteriaMet"), True),
        (child(deletion_timestamp=at(1)), False),
        (pod(Stage.PREPARE), True),
        (running(Stage.EXPORT), True),
        (running(Stage.EXPORT, deletion_timestamp=at(1)), False),
        (ended(1, Stage.PREPARE), False),
        (running(), False),  # its Job takes it along
    ],
)
def test_failure_leaves_no_job_that_runs_and_every_log(record, deleted):
    assert bool(unfinished(observed(record))) is deleted


def test_failure_hides_what_is_not_known_any_more():
    seen = observed(of=status(progress=progress(3, attempt=1, eta="5s", tokens_per_second=1.0)))
    step = fail(seen, seen.job.status, reason=Reason.CRASHED, message="m")
    assert step.changes["progress"] == progress(3, attempt=1)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_fatal_end_of_any_stage_is_the_end(stage):
    told = said(Reason.BUCKET_NOT_FOUND, "bucket nope does not exist; create it")
    records = [child(ended="Failed")] if stage is Stage.TRAIN else []
    plan = passed(*records, ended(64, stage, told=told), of=status(BEFORE[stage]))
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.BUCKET_NOT_FOUND)
    assert plan.status.message == "bucket nope does not exist; create it"
    assert plan.status.restarts == restarts()
    assert plan.children == ()


@pytest.mark.parametrize(
    ("now", "spoken", "kinds", "again"),
    [
        (29, False, [], 1),
        (30, False, ["NetworkPolicy"], 30),
        (45, False, ["NetworkPolicy"], 15),
        (900, False, ["NetworkPolicy"], 30),
        (900, True, [], None),
    ],
)
def test_the_policy_that_silent_ranks_meet_by_is_created_again(now, spoken, kinds, again):
    told = progress(0, attempt=1) if spoken else None
    on = replace(SETTINGS, network_policies=True)
    plan = passed(child(), running(), running(index=1), of=status(progress=told), now=now, settings=on)
    assert [one["kind"] for one in plan.children] == kinds
    assert plan.requeue_after == again


def test_no_policy_is_created_for_ranks_that_have_ended():
    on = replace(SETTINGS, network_policies=True)
    plan = passed(child(), ended(0), ended(0, index=1), of=status(), now=45, settings=on)
    assert (plan.children, plan.requeue_after) == ((), None)


def test_silent_ranks_without_a_policy_are_not_looked_at_again():
    plan = passed(child(), running(), running(index=1), of=status(), now=45)
    assert (plan.children, plan.requeue_after) == ((), None)
