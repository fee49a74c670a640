"""The rules of the chaos see what is wrong, and nothing where all is well."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from finetune_api.reasons import ConditionType, Phase, Reason
from finetune_api.status import (
    CheckpointRef,
    Condition,
    EvaluationResult,
    FineTuneJobStatus,
    Progress,
    Restarts,
    Scores,
)
from finetune_chaos.rules import (
    Look,
    contradictions,
    losses_apart,
    miscounts,
    step_back,
    two_at_once,
    untruths,
)
from finetune_chaos.view import Pod, read_pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(index=0, *, stage="train", attempt=1, phase="Running", name="", **fields):
    name = name or f"{stage}-{attempt}-{index}"
    return Pod(name, f"uid-{name}", stage, attempt, index, phase, "n", **fields)


def status(phase=Phase.RUNNING, **fields):
    told = {"reason": Reason.RUNNING, "message": "trains", "attempt": 1, "observed_generation": 1}
    return FineTuneJobStatus(phase=phase, **{**told, **fields})


BOTH = (pod(0), pod(1))


def look(status, pods=BOTH, attempts=(1,)):
    return Look("job", 1, 2, status, list(pods), frozenset(attempts))


def checkpoint(step):
    return CheckpointRef(uri="s3://runs/c", step=step, time=NOW, size_bytes=1)


def test_an_attempt_of_two_pods_and_the_ended_one_before_are_well():
    assert (
        two_at_once([pod(0, phase="Failed"), pod(1, phase="Succeeded"), pod(0, attempt=2), pod(1, attempt=2)]) == []
    )


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        ([pod(0), pod(0, attempt=2)], "train 1, train 2"),
        ([pod(0, stage="prepare"), pod(0)], "prepare 1, train 1"),
        ([pod(0, is_leaving=True), pod(0, attempt=2, phase="Pending")], "leaving"),
        ([pod(0, name="a"), pod(0, name="b")], "index 0"),
    ],
)
def test_two_at_once(pods, words):
    (found,) = two_at_once(pods)
    assert words in found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (status(Phase.SUCCEEDED), status(Phase.RUNNING), "left Succeeded"),
        (status(attempt=2), status(attempt=1), "attempt went from 2 back to 1"),
        (status(restarts=Restarts(total=1)), status(), "restarts.total"),
        (status(progress=Progress(attempt=1, step=9)), status(progress=Progress(attempt=1, step=8)), "progress.step"),
        (status(last_checkpoint=checkpoint(9)), status(last_checkpoint=checkpoint(5)), "lastCheckpoint"),
        (status(last_checkpoint=checkpoint(9)), status(), "lastCheckpoint"),
    ],
)
def test_what_goes_back_is_seen(old, new, words):
    assert any(words in found for found in step_back(old, new))
    assert step_back(old, old) == []


def test_the_steps_of_another_attempt_may_be_lower():
    old = status(progress=Progress(attempt=1, step=9))
    assert step_back(old, status(attempt=2, progress=Progress(attempt=2, step=5))) == []


def test_a_status_may_not_contradict_itself():
    succeeded = Condition(
        type=ConditionType.SUCCEEDED, status="True", reason=Reason.SUCCEEDED, last_transition_time=NOW
    )
    well = status(Phase.SUCCEEDED, completion_time=NOW, conditions=[succeeded])
    assert contradictions(well) == []
    assert len(contradictions(status(conditions=[succeeded], completion_time=NOW))) == 2
    assert contradictions(status(restarts=Restarts(total=0, counted=1)))
    assert contradictions(status(message=None))


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (look(status(), pods=[pod(0)]), "index [1]"),
        (look(status(), attempts=()), "Job job-a1 is not there"),
        (look(status(), attempts=(1, 2)), "attempt 2 has a Job"),
        (look(status(attempt=2), attempts=(2,)), "but train-1-0 lives"),
        (look(status(Phase.FAILED, completion_time=NOW)), "phase Failed, but pods live"),
        (look(status(Phase.SUSPENDED)), "phase Suspended, but pods live"),
        (look(status(Phase.EXPORTING)), "but train-1-0 lives"),
        (replace(look(status()), generation=2), "observedGeneration"),
    ],
)
def test_a_status_that_the_cluster_belies(seen, words):
    assert any(words in found for found in untruths(seen))


def test_a_true_status():
    assert untruths(look(status())) == []
    assert untruths(look(status(), pods=[pod(0, phase="Succeeded"), pod(1)])) == []


def test_restarts_agree_with_the_attempts():
    assert miscounts(status(attempt=2, restarts=Restarts(total=1)), resumes=0) == []
    assert miscounts(status(attempt=2, restarts=Restarts(total=2, export=1)), resumes=0) == []
    assert miscounts(status(attempt=2), resumes=1) == []
    assert miscounts(status(attempt=1, restarts=Restarts(total=1)), resumes=0)
    assert miscounts(status(attempt=3, restarts=Restarts(total=1)), resumes=0)


def scored(loss):
    tuned = Scores(loss=loss, perplexity=1, token_accuracy=1, tokens=1)
    return status(progress=Progress(loss=loss, eval_loss=loss), evaluation=EvaluationResult(tuned=tuned))


def test_the_loss_is_that_of_the_undisturbed_run():
    assert losses_apart(scored(1.00005), scored(1.0)) == []
    assert len(losses_apart(scored(1.0002), scored(1.0))) == 3
    assert len(losses_apart(status(), scored(1.0))) == 3


def test_a_pod_is_read_from_its_labels():
    labels = {
        "finetune-operator.io/stage": "train",
        "finetune-operator.io/attempt": "3",
        "batch.kubernetes.io/job-completion-index": "1",
    }
    metadata = {"name": "p", "uid": "u", "labels": labels, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    read = read_pod({"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}})
    assert (read.group, read.index, read.is_live, read.is_leaving) == ("train 3", 1, True, True)
