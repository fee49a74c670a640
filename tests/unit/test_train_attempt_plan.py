"""The plan of an attempt: the prepared one while it holds, else another, and less after each lack of memory."""

from dataclasses import replace

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_trainer.data.schedule import schedule
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.memory import GIB
from finetune_trainer.prepare.model_shape import ModelShape
from finetune_trainer.prepare.plan import Facts, resolve
from finetune_trainer.train.attempt_plan import plan_of_attempt

SHAPE = ModelShape(
    total_parameters=8_072_000_000,
    trainable_parameters=42_000_000,
    layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    vocabulary=128256,
    max_positions=8192,
)
SCHEDULE = schedule(10_000, epochs=1, max_steps=None, global_batch_size=64)
TOKENS = 2048


def job(*, out_of_memory=0, limit=None, training=None, **distributed):
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/base/"},
            "method": {"type": "lora"},
            "data": {"train": [{"uri": "s3://data/rows.jsonl"}]},
            "training": {"epochs": 1, "globalBatchSize": 64, **(training or {})},
            "distributed": distributed,
            "checkpoint": {"uri": "s3://runs/x/"},
            "output": {"uri": "s3://models/x/"},
        }
    )
    told = {"name": "x", "namespace": "ml", "uid": "u", "attempt": 1, "memory_limit_bytes": limit}
    return StageInput(**told, out_of_memory=out_of_memory, spec=spec)


def prepared(about):
    return resolve(about.spec, Facts(SHAPE, SCHEDULE, TOKENS, about.memory_limit_bytes))


def plan_of(about, *, device_bytes=None, of=None):
    def facts():
        return Facts(SHAPE, SCHEDULE, TOKENS, about.memory_limit_bytes, device_bytes)

    return plan_of_attempt(about, of or prepared(about), SCHEDULE, device_bytes=device_bytes, facts=facts)


def test_the_prepared_plan_holds_and_nothing_is_measured():
    def never():
        raise AssertionError

    about = job(processesPerNode=2)
    made = prepared(about)
    assert plan_of_attempt(about, made, SCHEDULE, device_bytes=80 * GIB, facts=never) == made


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ({"processesPerNode": 4}, {"world_size": 4, "zero_stage": 2}),
        ({"numNodes": 2}, {"world_size": 2, "zero_stage": 2}),
        ({"zeroStage": 1}, {"zero_stage": 1}),
        ({"training": {"microBatchSize": 2}}, {"micro_batch_size": 2, "gradient_accumulation_steps": 32}),
        ({"training": {"activationCheckpointing": "on"}}, {"activation_checkpointing": True}),
        ({"training": {"activationCheckpointing": "selective"}}, {"activation_checkpointing_every": 2}),
        ({"offloadOptimizer": "on"}, {"offload_optimizer": True, "zero_stage": 2}),
    ],
)
def test_an_edited_spec_gets_another_plan(edited, expected):
    plan = plan_of(job(**edited), of=prepared(job()))
    assert {name: getattr(plan, name) for name in expected} == expected
    assert plan == prepared(job(**edited))
    assert plan.micro_batch_size * plan.gradient_accumulation_steps * plan.world_size == 64


def test_a_smaller_gpu_than_was_assumed_gets_a_smaller_plan():
    about = job()
    assumed, found = prepared(about), plan_of(about, device_bytes=24 * GIB)
    assert found.estimated_bytes_per_device <= 24 * GIB < assumed.estimated_bytes_per_device
    assert found.total_steps == assumed.total_steps


def test_an_optimizer_is_not_left_on_the_host_of_a_gpu_that_turns_out_larger():
    full = replace(SHAPE, total_parameters=8_030_000_000, trainable_parameters=8_030_000_000)

    def planned(device_bytes, **distributed):
        about = job(**distributed)
        assumed = resolve(about.spec, Facts(full, SCHEDULE, TOKENS, None))
        assert assumed.offload_optimizer
        found = Facts(full, SCHEDULE, TOKENS, None, device_bytes)
        return plan_of_attempt(about, assumed, SCHEDULE, device_bytes=device_bytes, facts=lambda: found)

    assert planned(80 * GIB).offload_optimizer
    assert planned(141 * GIB).offload_optimizer
    assert not planned(192 * GIB).offload_optimizer
    assert planned(192 * GIB, offloadOptimizer="on").offload_optimizer


def test_each_lack_of_memory_leads_to_less_until_nothing_is_left():
    plans = []

    def run_out_of_memory():
        while True:
            plans.append(plan_of(job(out_of_memory=len(plans))))

    with pytest.raises(StageFailure) as caught:
        run_out_of_memory()
    assert {plan.micro_batch_size * plan.gradient_accumulation_steps for plan in plans} == {64}
    needs = [plan.estimated_bytes_per_device for plan in plans]
    sizes = [(plan.activation_checkpointing, plan.micro_batch_size) for plan in plans]
    assert needs == sorted(set(needs), reverse=True)
    assert sizes[1] == (False, sizes[0][1] // 2)
    assert [plan.offload_optimizer for plan in plans] == sorted(plan.offload_optimizer for plan in plans)
    assert plans[-1].offload_optimizer
    assert sizes[-1] == (True, 1)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_DEVICE_MEMORY)
    assert f"{len(plans)} attempts ran out of memory, and no plan is left" in caught.value.message
    assert (
        "; lower spec.data.maxLength, set spec.method.type: qlora or raise spec.distributed" in caught.value.message
    )


def test_micro_batches_are_halved_though_their_size_is_set_and_what_else_is_set_is_kept():
    training = {"microBatchSize": 4, "activationCheckpointing": "off"}
    found = [plan_of(job(out_of_memory=times, training=training, offloadOptimizer="off")) for times in range(3)]
    assert [plan.micro_batch_size for plan in found] == [4, 2, 1]
    assert not any(plan.activation_checkpointing for plan in found)
    with pytest.raises(StageFailure):
        plan_of(job(out_of_memory=3, training=training, offloadOptimizer="off"))


def plans_until_nothing_is_left(**settings):
    plans = []

    def run_out_of_memory():
        while True:
            plans.append(plan_of(job(out_of_memory=len(plans), **settings)))

    with pytest.raises(StageFailure, match="no plan is left"):
        run_out_of_memory()
    return plans


@pytest.mark.parametrize(
    ("optimizer", "stages"),
    [("adamw", {2, 3}), ("adamw8bit", {2}), ("pagedAdamw8bit", {2}), ("pagedAdamw32bit", {2})],
)
def test_no_plan_takes_a_stage_that_the_state_of_a_commit_cannot_be_divided_for(optimizer, stages):
    """The next attempt would be refused as it goes on from its commit, and the job would end."""
    plans = plans_until_nothing_is_left(training={"optimizer": {"type": optimizer}}, processesPerNode=2)
    assert {plan.zero_stage for plan in plans} == stages
    assert plans[-1].micro_batch_size == 1


def test_on_cpus_a_lower_limit_is_met_or_refused():
    about = job(device="cpu", limit=64 * GIB)
    tight = job(device="cpu", limit=20 * GIB)
    assert plan_of(tight, of=prepared(about)).estimated_bytes_per_device <= 20 * GIB
    with pytest.raises(StageFailure) as caught:
        plan_of(job(device="cpu", limit=4 * GIB), of=prepared(about))
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_MEMORY)
