import os
from datetime import UTC, datetime

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import TrainResult
from finetune_api.spec import Distributed, Training
from finetune_api.stage import StageInput
from finetune_api.status import CheckpointRef, EvaluationResult, Plan, Progress, Scores
from finetune_trainer.errors import StageFailure
from finetune_trainer.train import stage
from finetune_trainer.train.engine import deepspeed_config


def test_gpu_job_without_a_gpu_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(StageFailure) as failure:
        stage.require_device(Distributed(device="gpu", processes_per_node=2))
    assert failure.value.code is ExitCode.INVALID
    assert failure.value.reason is Reason.DEVICE_UNAVAILABLE
    assert "processesPerNode 2, but this pod sees 0 CUDA devices" in failure.value.message


@pytest.mark.parametrize(("found", "wanted"), [(2, 2), (8, 4)])
def test_gpu_job_with_enough_gpus_goes_on(monkeypatch, found, wanted):
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    stage.require_device(Distributed(device="gpu", processes_per_node=wanted))


@pytest.mark.parametrize(
    ("device", "given", "trim"), [("cpu", None, str(2**40)), ("cpu", "65536", "65536"), ("gpu", None, None)]
)
def test_processors_keep_memory_unless_the_user_says_otherwise(monkeypatch, device, given, trim):
    environment = {} if given is None else {"MALLOC_TRIM_THRESHOLD_": given}
    monkeypatch.setattr(os, "environ", environment)
    stage.set_environment(Distributed(device=device))
    assert environment.get("MALLOC_TRIM_THRESHOLD_") == trim
    assert environment["HF_HUB_OFFLINE"] == "1"


class Finished:
    """A store in which the run's result stands."""

    def __init__(self, result):
        self._text = result.model_dump_json(by_alias=True).encode()

    def exists(self, location):
        return location.key.endswith("/results/train.json")

    def read(self, location):
        return self._text


def test_attempt_after_the_result_only_tells_it():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    scores = Scores(loss=1.0, perplexity=2.7, token_accuracy=0.5, tokens=10)
    ref = CheckpointRef(uri="s3://bucket/runs/u/commits/00000030.json", step=30, time=time, size_bytes=1)
    result = TrainResult(
        writer="a1-x",
        export_commit="runs/u/commits/00000020.json",
        progress=Progress(step=30, total_steps=30, percent=100),
        last_checkpoint=ref,
        evaluation=EvaluationResult(tuned=scores),
    )
    job = StageInput.model_validate(
        {
            "name": "job",
            "namespace": "test",
            "uid": "u",
            "attempt": 2,
            "spec": {
                "model": {"uri": "s3://bucket/model/"},
                "data": {"train": [{"uri": "s3://bucket/rows/"}]},
                "training": {"epochs": 1},
                "checkpoint": {"uri": "s3://bucket/runs/"},
                "output": {"uri": "s3://bucket/output/"},
            },
        }
    )
    word = stage.run(job, Finished(result))
    assert word.reason is Reason.SUCCEEDED
    assert word.evaluation == result.evaluation
    assert word.last_checkpoint == ref
    assert word.message == "trained 30 steps; the weights of step 20 are exported"


def plan_of(zero_stage, precision="bf16", **choices):
    return Plan(
        zero_stage=zero_stage,
        world_size=2,
        micro_batch_size=4,
        gradient_accumulation_steps=3,
        activation_checkpointing=False,
        attention="sdpa",
        precision=precision,
        total_steps=10,
        total_parameters=1000,
        trainable_parameters=500,
        estimated_bytes_per_device=0,
        **choices,
    )


@pytest.mark.parametrize(
    ("zero_stage", "precision", "clipping"), [(0, "fp32", 0.0), (0, "bf16", 1.0), (2, "fp32", 1.0), (3, "bf16", 1.0)]
)
def test_deepspeed_configuration(zero_stage, precision, clipping):
    plan = plan_of(zero_stage, precision)
    config = deepspeed_config(plan, Training(epochs=1), device="cpu", hidden_size=64)
    assert config["zero_optimization"]["stage"] == zero_stage
    assert config["zero_optimization"]["reduce_bucket_size"] == 500
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["bf16"]["enabled"] is (precision == "bf16")
    assert config["gradient_clipping"] == clipping
    assert ("stage3_param_persistence_threshold" in config["zero_optimization"]) is (zero_stage == 3)
    assert "offload_optimizer" not in config["zero_optimization"]


@pytest.mark.parametrize(("device", "pinned"), [("gpu", True), ("cpu", False)])
def test_an_offloaded_optimizer_is_torchs_own_on_the_host(device, pinned):
    config = deepspeed_config(plan_of(2, offload_optimizer=True), Training(epochs=1), device=device, hidden_size=64)
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": pinned}
    assert config["zero_force_ds_cpu_optimizer"] is False
