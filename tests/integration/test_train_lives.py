"""The training stage as pods run it: real processes and real S3, through interruptions to the end."""

import json
import math
import os
import signal

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Distributed
from finetune_api.status import EvaluationResult
from finetune_api.uris import parse_s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def same_run(first, second):
    """Steps that both attempts did have the same numbers; return how many there are."""
    shared = first.keys() & second.keys()
    for field in ("loss", "gradNorm", "lr"):
        assert {step: first[step][field] for step in shared} == {step: second[step][field] for step in shared}
    return len(shared)


def test_job_is_trained_scored_and_exported(make_job):
    job = make_job(
        model={"newTokens": ["printer"]},
        method={"type": "lora", "lora": {"loraPlusRatio": 4}},
        training={"epochs": 6, "globalBatchSize": 2, "learningRate": 1e-2, "precision": "fp32"},
        distributed={"device": "cpu", "processesPerNode": 2},
        evaluation={
            "everySteps": 8,
            "predictions": {"rows": 2, "maxNewTokens": 4},
            "samplePrompts": ["Where is my invoice?"],
        },
        checkpoint={"everyMinutes": 0, "keepLast": 1},
        output={"merge": True},
        tracking={"tensorboard": True},
    )
    [pod] = job.pods()
    assert pod.end() == ExitCode.DONE, pod.text()
    word, result = pod.last_word(), job.result()
    total = job.plan.total_steps
    assert word.reason is Reason.SUCCEEDED
    assert word.progress.step == word.progress.total_steps == total == max(pod.steps())
    assert word.evaluation == result.evaluation
    assert result.evaluation.tuned.loss < result.evaluation.base.loss - 0.5
    assert result.evaluation.tuned.token_accuracy > result.evaluation.base.token_accuracy
    scored = {event["step"]: event["evalLoss"] for event in pod.events if event["event"] == "evaluation"}
    assert sorted(scored) == [*range(8, total, 8), *([total] if total % 8 or total else [])]
    # The best commit is kept beside the newest one, and it is the one to export.
    best = min(scored, key=scored.get)
    assert result.export_commit == job.layout.commit(best).key
    assert sorted(job.commits()) == sorted({best, total})
    series = [json.loads(line) for line in job.s3.store.read(job.layout.metrics(result.writer)).splitlines()]
    assert {line["step"]: line["loss"] for line in series if "loss" in line} == {
        step: event["loss"] for step, event in pod.steps().items()
    }
    samples = [json.loads(line) for line in job.s3.store.read(job.layout.samples(result.writer)).splitlines()]
    assert [sample["step"] for sample in samples] == sorted(scored)
    assert {sample["prompt"] for sample in samples} == {"Where is my invoice?"}
    assert job.s3.store.list(job.layout.tensorboard(result.writer))
    assert result.progress.peak_bytes_per_device > 100 * 2**20
    again = job.pods(attempt=2)[0]
    assert again.end() == ExitCode.DONE
    assert not again.steps()
    assert again.last_word() == word
    assert len(result.compared_losses) > 100  # the export below compares with them
    exported = export(job)
    assert exported.reason is Reason.SUCCEEDED
    assert exported.output.step == best
    assert exported.output.merge_gap < 1e-3
    tokenizer, adapter = (
        json.loads(job.s3.store.read(parse_s3(job.s3.uri(f"output/{key}"))))
        for key in ("merged/tokenizer.json", "adapter/adapter_config.json")
    )
    [printer] = [token["id"] for token in tokenizer["added_tokens"] if token["content"] == "printer"]
    assert [printer] in adapter["trainable_token_indices"].values()


def export(job):
    from finetune_trainer.export import stage

    return stage.run(job.input, job.s3.store)


def test_pod_that_is_killed_ends_the_attempt_and_the_next_goes_on_from_the_commit(make_job):
    job = make_job(
        method={"type": "full"},
        training={"epochs": None, "maxSteps": 60, "globalBatchSize": 2, "learningRate": 1e-3, "precision": "fp32"},
        distributed={"device": "cpu", "numNodes": 2, "zeroStage": 3},
        evaluation={"everySteps": 0},
        checkpoint={"everySteps": 4, "everyMinutes": 0},
    )
    first, second = job.pods(FINETUNE_POD_IP="::1")
    assert first.wait_for("rendezvous-told")["address"] == "::1"
    committed = first.wait_for("checkpoint-committed")["step"]
    first.wait_for("step", lambda event: event["step"] > committed)
    [victim] = second.workers()
    os.kill(victim, signal.SIGKILL)
    assert second.end(timeout=30) == ExitCode.KILLED
    # Who loses a peer crashes, which says less than how the peer ended.
    assert first.end(timeout=60) == 1
    assert first.last_word().reason is Reason.CRASHED
    assert "SIGKILL" in second.last_word().message
    newest = max(job.commits())
    resumed, other = job.pods(attempt=2)
    assert resumed.wait_for("resumed")["step"] == newest
    assert (resumed.end(), other.end()) == (ExitCode.DONE, ExitCode.DONE), resumed.text()
    assert min(resumed.steps()) == newest + 1
    assert max(resumed.steps()) == 60
    assert same_run(first.steps(), resumed.steps()) == max(first.steps()) - newest
    assert job.result().writer.startswith("a2-")
    assert job.result().evaluation.base is not None


def test_stop_on_request_commits_and_fewer_processes_with_less_memory_go_on(make_job):
    job = make_job(
        training={"epochs": None, "maxSteps": 80, "globalBatchSize": 2, "learningRate": 1e-3, "precision": "bf16"},
        method={"type": "lora", "lora": {"dropout": 0.1}},
        distributed={"device": "cpu", "processesPerNode": 2, "zeroStage": 2},
        # Neither validation nor test rows: the last weights are the result, without scores.
        data={"split": {"validation": 0, "test": 0}},
        evaluation={"everySteps": 0},
        checkpoint={"everyMinutes": 0},
    )
    [pod] = job.pods()
    pod.wait_for("step", lambda event: event["step"] >= 3)
    pod.stop()
    assert pod.end() == ExitCode.STOPPED, pod.text()
    stopped_at = max(pod.steps())
    assert stopped_at < 80
    assert list(job.commits()) == [stopped_at]
    word = pod.last_word()
    assert word.reason is Reason.STOPPED
    assert f"stopped on request after step {stopped_at}; its checkpoint is committed" in word.message
    assert f"the last good checkpoint is {job.layout.commit(stopped_at).uri}" in word.message
    assert word.progress.step == word.last_checkpoint.step == stopped_at
    assert (word.plan, word.plan.world_size, word.plan.micro_batch_size) == (job.plan, 2, 1)
    alone = Distributed(device="cpu", zero_stage=1)
    spec = job.input.spec.model_copy(update={"distributed": alone})
    job.input = job.input.model_copy(update={"spec": spec, "out_of_memory": 1})
    [resumed] = job.pods(attempt=2)
    assert resumed.end() == ExitCode.DONE, resumed.text()
    # Alone it would take both sequences of a step at once, were it not told that this took too much.
    plan = resumed.last_word().plan
    assert (plan.world_size, plan.zero_stage, plan.micro_batch_size) == (1, 1, 1)
    assert (plan.gradient_accumulation_steps, plan.total_steps) == (2, 80)
    assert sorted(resumed.steps()) == list(range(stopped_at + 1, 81))
    assert job.result().evaluation == EvaluationResult()
    assert job.result().export_commit == job.layout.commit(80).key


def test_run_that_diverges_fails_and_names_its_last_good_checkpoint(make_job):
    job = make_job(
        method={"type": "full"},
        # With this decay each step multiplies the weights by -9: they leave the range of numbers soon.
        training={
            "epochs": None,
            "maxSteps": 200,
            "globalBatchSize": 2,
            "learningRate": 10,
            "scheduler": "constant",
            "warmup": 0,
            "precision": "fp32",
            "optimizer": {"weightDecay": 1, "maxGradNorm": 0},
        },
        distributed={"device": "cpu"},
        evaluation={"everySteps": 0, "baseline": False},
        checkpoint={"everySteps": 5, "everyMinutes": 0},
    )
    [pod] = job.pods()
    assert pod.end() == ExitCode.DIVERGED, pod.text()
    word = pod.last_word()
    assert word.reason is Reason.DIVERGED
    newest = max(job.commits())
    assert f"the last good checkpoint is {job.layout.commit(newest).uri}" in word.message
    assert all(math.isfinite(event["loss"]) for event in pod.steps().values())
    assert word.last_checkpoint.step == newest
    assert "lower spec.training.learningRate" in word.message
    [suspects] = [event for event in pod.events if event["event"] == "suspect-rows"]
    assert suspects["step"] == max(pod.steps()) + 1
    assert suspects["rows"][0].startswith(job.s3.uri("rows/train.jsonl:"))
    assert suspects["rows"][0] in word.message


def test_gpu_job_on_a_node_without_cuda_is_refused(make_job):
    job = make_job(
        training={"epochs": None, "maxSteps": 2, "globalBatchSize": 2},
        distributed={"device": "gpu"},
    )
    [pod] = job.pods()
    assert pod.end() == ExitCode.INVALID, pod.text()
    assert pod.last_word().reason is Reason.DEVICE_UNAVAILABLE
    assert "this pod sees 0 CUDA devices" in pod.last_word().message
