"""Training that hangs, and training that is stopped where no step is near: real processes over gloo, real S3."""

import os
import re
import signal
from pathlib import Path

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEVER_EVALUATED = {"everySteps": 0, "baseline": False}
PATIENCE = "5"


def endless(**changes):
    return {
        "training": {"epochs": None, "maxSteps": 100_000, "globalBatchSize": 2, "learningRate": 1e-4},
        "distributed": {"device": "cpu", "processesPerNode": 2},
        "data": {"split": {"validation": 0, "test": 0}},
        "evaluation": NEVER_EVALUATED,
        "checkpoint": {"everyMinutes": 0, "everySteps": 5},
        **changes,
    }


def test_a_rank_that_stands_still_ends_the_run_with_the_stacks_of_the_others(make_job):
    [pod] = make_job(**endless()).pods(FINETUNE_HANG_SECONDS=PATIENCE)
    committed = pod.wait_for("checkpoint-committed")["step"]
    # The commit is known to rank 0 at its next step.
    reached = max(pod.steps())
    pod.wait_for("step", lambda event: event["step"] >= reached + 2)
    workers = pod.workers()
    os.kill(workers[1], signal.SIGSTOP)
    assert pod.end(timeout=120) == ExitCode.HUNG, pod.text()
    word, last = pod.last_word(), max(pod.steps())
    assert word.reason is Reason.HUNG
    assert re.match(
        rf"the training hangs: rank 0 gave no sign of life for \d+ s after step ({last}|{last + 1}); it stands in"
        r" all_reduce \(torch/distributed/distributed_c10d.py:\d+\), called from \S+ \(finetune_trainer/train/",
        word.message,
    ), word.message
    assert word.progress.step == last
    assert word.last_checkpoint.step >= committed
    told = {event["rank"]: event["frames"] for event in pod.events if event["event"] == "stack" and is_main(event)}
    assert told.keys() == {0}
    assert all("all_reduce" in frames[-1] for frames in told.values())
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def is_main(event):
    return event["thread"].startswith("MainThread")


LONG = {
    "row_count": 600,
    "training": {"epochs": None, "maxSteps": 12, "globalBatchSize": 2, "microBatchSize": 1, "precision": "fp32"},
    "distributed": {"device": "cpu", "processesPerNode": 2, "zeroStage": 3},
    "data": {"maxLength": 64, "split": {"validation": 0.5, "test": 0}},
    "evaluation": {"everySteps": 6, "baseline": False},
    "checkpoint": {"everyMinutes": 0, "keepLast": 10},
}
"""Its evaluation takes long: a hundred batches and more, each with collectives of its own at this ZeRO stage."""
PROMPT = 60
"""Seconds for an end that must not wait for the evaluation; the pod has 120."""


def test_stop_in_an_evaluation_commits_at_once_and_the_evaluation_is_made_up_for(make_job):
    job = make_job(**LONG)
    [pod] = job.pods()
    pod.wait_for("evaluating", lambda event: event["rank"] == 0)
    pod.stop()
    assert pod.end(timeout=PROMPT) == ExitCode.STOPPED, pod.text()
    assert not [event for event in pod.events if event["event"] == "evaluation"]
    word = pod.last_word()
    assert "stopped on request after step 6; its checkpoint is committed" in word.message
    assert word.last_checkpoint.step == 6
    # A loss that was not measured is not told.
    assert job.commits()[6].eval_loss is None
    [resumed] = job.pods(attempt=2)
    first = resumed.wait_for("evaluation")
    assert first["step"] == 6
    assert min(resumed.steps(), default=7) == 7
    assert job.commits()[6].eval_loss == pytest.approx(first["evalLoss"])
    resumed.wait_for("evaluating", lambda event: "after step 12" in event["doing"] and event["rank"] == 0)
    resumed.stop()
    assert resumed.end(timeout=PROMPT) == ExitCode.STOPPED, resumed.text()
    assert job.commits()[12].eval_loss is None
    # The last evaluation decides on what is exported, so it is made up for too.
    [last] = job.pods(attempt=3)
    assert last.end() == ExitCode.DONE, last.text()
    assert not last.steps()
    losses = {step: commit.eval_loss for step, commit in job.commits().items()}
    assert losses[6] is not None
    assert losses[12] is not None
    assert job.result().export_commit == job.layout.commit(min(losses, key=losses.get)).key


def test_stop_while_the_base_model_is_scored_ends_at_once(make_job):
    job = make_job(
        **LONG
        | {
            "data": {"maxLength": 64, "split": {"validation": 0, "test": 0.5}},
            "evaluation": {"everySteps": 0, "baseline": True},
        }
    )
    [pod] = job.pods()
    pod.wait_for("evaluating", lambda event: event["rank"] == 0)
    pod.stop()
    assert pod.end(timeout=PROMPT) == ExitCode.STOPPED, pod.text()
    assert not [event for event in pod.events if event["event"] == "baseline"]
    assert pod.last_word().message == "stopped on request; no checkpoint was committed, so it begins anew"
    assert job.commits() == {}


SMALL_DISK = (
    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=2m tmpfs "$FINETUNE_WORK_DIR" && exec "$@"',
    "sh",
)
"""Runs a pod whose scratch space has room for the model but not for a checkpoint of it."""


def test_disk_that_is_full_at_a_checkpoint_is_told_as_that(make_job):
    job = make_job(
        method={"type": "full"},
        training={"epochs": None, "maxSteps": 100, "globalBatchSize": 2, "precision": "fp32"},
        distributed={"device": "cpu", "processesPerNode": 2},
        data={"split": {"validation": 0, "test": 0}},
        evaluation=NEVER_EVALUATED,
        checkpoint={"everyMinutes": 0, "everySteps": 3},
    )
    [pod] = job.pods(wrap=SMALL_DISK)
    assert pod.end() == 1, pod.text()
    word = pod.last_word()
    assert word.reason is Reason.SCRATCH_FULL
    assert "within spec.storage.cache.sizeLimit 200Gi, but there is no room left" in word.message
    assert "disk-full" in [event["event"] for event in pod.events]
    assert job.commits() == {}
