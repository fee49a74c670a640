"""Policy verdict: what a failed Job means."""

import pytest
from reconcile_builders import at, checkpoint, ended, pod, progress, running, said, scene, status

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_api.status import Restarts
from finetune_operator.model import JobCondition, Terminated
from finetune_operator.reconcile.ending import Action, end_of
from finetune_operator.reconcile.out_of_memory import MOST_PLANS
from finetune_operator.reconcile.verdict import judge

FAILED = JobCondition(type="Failed", status="True", reason="PodFailurePolicy", message="")
DISRUPTED = "EvictionByEvictionAPI: Eviction API: evicting"


def verdict(*pods, message="", before=None, device="cpu"):
    failure = JobCondition(type="Failed", status="True", reason="PodFailurePolicy", message=message)
    return judge(scene(*pods, of=before or status(), distributed={"device": device}), failure)


@pytest.mark.parametrize(
    ("code", "action", "reason"),
    [
        (1, Action.RETRY, Reason.CRASHED),
        (2, Action.RETRY, Reason.CRASHED),
        (64, Action.FAIL, Reason.INVALID_SPEC),
        (65, Action.SAVE_MEMORY, Reason.OUT_OF_DEVICE_MEMORY),
        (75, Action.RESTART, Reason.STOPPED),
        (76, Action.RETRY, Reason.STORAGE_FAILED),
        (77, Action.FAIL, Reason.DIVERGED),
        (78, Action.RETRY, Reason.HUNG),
        (127, Action.RETRY, Reason.CRASHED),
        (128, Action.RETRY, Reason.CRASHED),
        (134, Action.RETRY, Reason.CRASHED),
        (137, Action.RETRY, Reason.CRASHED),
        (139, Action.RETRY, Reason.CRASHED),
        (143, Action.RETRY, Reason.CRASHED),
        (255, Action.RETRY, Reason.CRASHED),
    ],
)
def test_exit_codes_without_a_word(code, action, reason):
    found = verdict(ended(code))
    assert (found.action, found.reason) == (action, reason)
    assert "bot-a1-0" in found.message


@pytest.mark.parametrize(
    ("code", "told", "action"),
    [
        (64, Reason.INVALID_DATA, Action.FAIL),
        (64, Reason.BUCKET_NOT_FOUND, Action.FAIL),
        (64, Reason.OUTPUT_EXISTS, Action.FAIL),
        (64, Reason.DEVICE_UNAVAILABLE, Action.FAIL),
        (64, Reason.OUT_OF_MEMORY, Action.FAIL),
        (76, Reason.STORAGE_UNREACHABLE, Action.RETRY),
        (77, Reason.DIVERGED, Action.FAIL),
        (75, Reason.STOPPED, Action.RESTART),
        (1, Reason.CRASHED, Action.RETRY),
        (137, Reason.CRASHED, Action.RETRY),
    ],
)
def test_the_stage_names_the_reason_and_the_code_what_follows(code, told, action):
    found = verdict(ended(code, told=said(told, "spec.data.train: line 3 is broken")))
    assert found == (action, told, "spec.data.train: line 3 is broken")


@pytest.mark.parametrize("told", [Reason.SUCCEEDED, Reason.RUNNING, Reason.BACKOFF_LIMIT_EXCEEDED, Reason.DISRUPTED])
def test_reasons_that_are_not_the_stage_s_to_give_are_ignored(told):
    assert verdict(ended(1, told=said(told, "nonsense"))).reason is Reason.CRASHED


@pytest.mark.parametrize("text", ["", "Traceback (most recent call last):", '{"reason": "Nonsense"}', "[]", "{"])
def test_a_last_word_that_is_none(text):
    assert verdict(ended(1, told=text)).reason is Reason.CRASHED


def test_a_last_word_of_another_release():
    assert verdict(ended(64, told='{"reason": "InvalidData", "message": "m", "later": 1}')).message == "m"


def test_lack_of_memory_that_no_plan_mends_ends_the_job_with_advice():
    found = verdict(ended(137, oom=True), device="gpu")
    assert (found.action, found.reason) == (Action.FAIL, Reason.OUT_OF_MEMORY)
    assert "raise spec.podTemplate.resources.limits.memory" in found.message
    stage = verdict(ended(137, Stage.PREPARE, oom=True), before=status(Phase.PREPARING))
    assert stage.action is Action.FAIL
    assert "raise spec.podTemplate.stageResources.limits.memory" in stage.message


@pytest.mark.parametrize(
    ("end", "device", "reason"),
    [
        (ended(137, oom=True), "cpu", Reason.OUT_OF_MEMORY),
        (ended(1, oom=True), "cpu", Reason.OUT_OF_MEMORY),
        (ended(65), "gpu", Reason.OUT_OF_DEVICE_MEMORY),
        (ended(65, told=said(Reason.OUT_OF_DEVICE_MEMORY, "full")), "gpu", Reason.OUT_OF_DEVICE_MEMORY),
    ],
)
def test_training_that_ran_out_of_memory_goes_on_with_another_plan(end, device, reason):
    found = verdict(end, device=device)
    assert (found.action, found.reason) == (Action.SAVE_MEMORY, reason)
    assert "spec." not in found.message
    many = status(restarts=Restarts(out_of_memory=MOST_PLANS))
    assert verdict(end, device=device, before=many).action is Action.FAIL


def test_the_trainer_says_when_no_plan_is_left():
    told = said(Reason.OUT_OF_DEVICE_MEMORY, "3 attempts ran out of memory, and no plan is left")
    found = verdict(ended(64, told=told), device="gpu")
    assert (found.action, found.reason) == (Action.FAIL, Reason.OUT_OF_DEVICE_MEMORY)
    assert "no plan is left; lower spec.training.microBatchSize" in found.message


def test_lack_of_memory_counts_whatever_the_launcher_s_code_was():
    assert verdict(ended(1, oom=True)).reason is Reason.OUT_OF_MEMORY


def test_a_kill_is_not_a_lack_of_memory():
    found = verdict(ended(137))
    assert (found.action, found.message) == (Action.RETRY, "pod bot-a1-0 was killed by signal 9")


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (64, Reason.OUT_OF_MEMORY, "raise spec.podTemplate.resources.limits.memory"),
        (64, Reason.OUT_OF_DEVICE_MEMORY, "lower spec.training.microBatchSize"),
        (77, Reason.DIVERGED, "lower spec.training.learningRate"),
    ],
)
def test_advice_is_added_where_the_stage_gives_none(code, reason, advice):
    assert advice in verdict(ended(code, told=said(reason, "boom"))).message
    assert advice not in verdict(ended(code, told=said(reason, "boom; change spec.training.seed"))).message


def test_divergence_names_the_last_good_checkpoint():
    before = status(last_checkpoint=checkpoint(40))
    assert "the newest checkpoint is step 40 at s3://runs/bot/" in verdict(ended(77), before=before).message


@pytest.mark.parametrize(
    "lost",
    [
        running(disruption=DISRUPTED),
        ended(137, disruption=DISRUPTED),
        ended(75, disruption=DISRUPTED),
        ended(143, disruption=DISRUPTED),
        ended(1, disruption=DISRUPTED),
        pod(phase="Unknown", node="n0"),
        pod(phase="Failed", node="n0", disruption="TerminationByKubelet", reason="Evicted"),
    ],
)
def test_disruptions_are_free(lost):
    found = verdict(lost)
    assert (found.action, found.reason) == (Action.RESTART, Reason.DISRUPTED)
    assert "node n0" in found.message


@pytest.mark.parametrize("code", [1, 76, 137, 143])
def test_the_pod_of_a_stage_that_somebody_deleted_is_a_disruption(code):
    found = verdict(ended(code, Stage.PREPARE, deletion_timestamp=at(9)), before=status(Phase.PREPARING))
    assert (found.action, found.message) == (Action.RESTART, "somebody deleted pod bot-prepare")
    fatal = verdict(ended(64, Stage.PREPARE, deletion_timestamp=at(9)), before=status(Phase.PREPARING))
    assert fatal.action is Action.FAIL


def test_a_fatal_code_is_not_excused_by_a_disruption():
    assert verdict(ended(64, disruption=DISRUPTED)).action is Action.FAIL


@pytest.mark.parametrize(
    ("reason", "message"),
    [("Evicted", "The node was low on resource: memory"), ("UnexpectedAdmissionError", "no GPU"), ("", "")],
)
def test_a_pod_that_failed_without_its_container(reason, message):
    found = verdict(pod(phase="Failed", reason=reason, message=message))
    assert (found.action, found.reason) == (Action.RETRY, Reason.CRASHED)
    assert reason in found.message
    assert message in found.message


def test_an_evicted_pod_tells_why_and_not_its_exit_code():
    found = verdict(ended(137, reason="Evicted", message="The node was low on resource: memory"))
    assert found.message == "pod bot-a1-0 failed: Evicted: The node was low on resource: memory"


@pytest.mark.parametrize("disruption", ["", "TerminationByKubelet"])
@pytest.mark.parametrize(
    "message",
    [
        'Usage of EmptyDir volume "work" exceeds the limit "1Gi".',
        "Pod ephemeral local storage usage exceeds the total limit of containers 5Gi.",
        "Container trainer exceeded its local ephemeral storage limit 1Gi.",
    ],
)
def test_a_pod_that_filled_its_scratch_space_fails_with_advice(message, disruption):
    found = verdict(ended(137, reason="Evicted", message=message, disruption=disruption))
    assert (found.action, found.reason) == (Action.FAIL, Reason.SCRATCH_FULL)
    assert message in found.message
    assert found.message.endswith("raise spec.storage.cache.sizeLimit")


def test_a_node_that_ran_out_of_space_is_a_disruption():
    message = "The node was low on resource: ephemeral-storage."
    assert verdict(ended(137, reason="Evicted", message=message, disruption="x")).reason is Reason.DISRUPTED


OOM = {"oom": True}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        # what no retry mends is told whenever it came
        (ended(1, after=1), ended(64, index=1, after=9), Reason.INVALID_SPEC),
        (ended(137, after=1, **OOM), ended(77, index=1, after=9), Reason.DIVERGED),
        (ended(75, after=1), ended(65, index=1, after=9), Reason.OUT_OF_DEVICE_MEMORY),
        # then lack of memory, whose victims are the peers
        (ended(1, after=1), ended(137, index=1, after=9, **OOM), Reason.OUT_OF_MEMORY),
        (ended(137, after=1, **OOM), running(index=1, disruption=DISRUPTED), Reason.OUT_OF_MEMORY),
        # then a disruption, whose victims are the peers
        (ended(1, after=1), running(index=1, disruption=DISRUPTED), Reason.DISRUPTED),
        (ended(76, after=1), ended(143, index=1, after=9, disruption=DISRUPTED), Reason.DISRUPTED),
        # then the storage
        (ended(1, after=1), ended(76, index=1, after=9), Reason.STORAGE_FAILED),
        (ended(75, after=1), ended(76, index=1, after=9), Reason.STORAGE_FAILED),
        # a peer that fails on the storage while it is being ended tells nothing
        (ended(1, after=1), ended(76, index=1, after=9, deletion_timestamp=at(9)), Reason.CRASHED),
        # among the rest, what came first: a stop that breaks the peer is a stop
        (ended(75, after=1), ended(1, index=1, after=2), Reason.STOPPED),
        # and a crash after which Kubernetes stops the peer is a crash
        (ended(1, after=1), ended(75, index=1, after=2), Reason.CRASHED),
        (ended(1, after=5), ended(75, index=1, after=5), Reason.CRASHED),
        (ended(75, after=5), ended(75, index=1, after=6), Reason.STOPPED),
    ],
)
def test_the_most_telling_end_counts(first, second, reason):
    assert verdict(first, second).reason is reason
    assert verdict(second, first).reason is reason


def test_of_equals_the_earliest_then_the_lowest_index_counts():
    assert "bot-a1-1" in verdict(ended(1, after=9), ended(1, index=1, after=2)).message
    assert "bot-a1-0" in verdict(ended(1, index=1, after=2), ended(1, after=2)).message
    assert "bot-a1-1" in verdict(ended(1, after=2), ended(137, index=1, after=2)).message


def test_pods_that_ended_well_or_live_say_nothing():
    assert end_of(ended(0)) is None
    assert end_of(running()) is None
    assert end_of(pod()) is None
    assert verdict(ended(0), ended(1, index=1)).message.startswith("pod bot-a1-1")


EXITED = "Container trainer for pod ml/bot-a1-0 failed with exit code {} matching FailJob rule at index 1"
EVICTED = "Pod ml/bot-a1-0 has condition DisruptionTarget matching FailJob rule at index 0"


@pytest.mark.parametrize(
    ("message", "action", "reason"),
    [
        (EXITED.format(64), Action.FAIL, Reason.INVALID_SPEC),
        (EXITED.format(65), Action.SAVE_MEMORY, Reason.OUT_OF_DEVICE_MEMORY),
        (EXITED.format(75), Action.RESTART, Reason.STOPPED),
        (EXITED.format(76), Action.RETRY, Reason.STORAGE_FAILED),
        (EXITED.format(137), Action.RETRY, Reason.CRASHED),
        (EVICTED, Action.RESTART, Reason.DISRUPTED),
        ("Job has reached the specified backoff limit", Action.RETRY, Reason.CRASHED),
        ("", Action.RETRY, Reason.CRASHED),
    ],
)
def test_a_pod_that_is_gone_is_known_by_the_job_s_condition(message, action, reason):
    found = verdict(message=message)
    assert (found.action, found.reason) == (action, reason)
    assert found.message


def test_the_condition_adds_to_the_pods_that_are_left():
    assert verdict(ended(1, index=1), message=EVICTED).reason is Reason.DISRUPTED
    assert verdict(ended(1, index=1), message=EXITED.format(75)).reason is Reason.STOPPED
    assert verdict(ended(64, index=1), message=EXITED.format(75)).reason is Reason.INVALID_SPEC


def test_the_condition_tells_nothing_new_of_a_pod_in_view():
    told = said(Reason.INVALID_DATA, "file.jsonl:3: messages: missing")
    found = verdict(ended(64, told=told), message=EXITED.format(64))
    assert found.message == "file.jsonl:3: messages: missing"


def test_pods_of_another_attempt_have_no_say():
    assert verdict(ended(64, attempt=1), ended(1, attempt=2), before=status(attempt=2)).reason is Reason.CRASHED


def test_an_end_without_a_time_comes_last():
    timeless = pod(phase="Failed", terminated=Terminated(exit_code=1))
    assert "bot-a1-1" in verdict(timeless, ended(1, index=1, after=900)).message


def test_progress_in_a_last_word_does_not_matter_here():
    assert verdict(ended(75, told=said(Reason.STOPPED, "m", progress=progress(5)))).message == "m"
