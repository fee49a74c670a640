"""The plan and its memory estimate: what auto becomes, and the sentence for a model that is too large."""

from dataclasses import replace

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.schedule import schedule
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.memory import GIB, Layout, estimate
from finetune_trainer.prepare.model_shape import ModelShape
from finetune_trainer.prepare.plan import Facts, resolve

LLAMA_8B = {
    "layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocabulary": 128256,
}
SMOL = {"layers": 30, "hidden_size": 576, "intermediate_size": 1536, "vocabulary": 49152}
SHAPES = {
    ("8b", "full"): ModelShape(
        total_parameters=8_030_000_000, trainable_parameters=8_030_000_000, max_positions=8192, **LLAMA_8B
    ),
    ("8b", "lora"): ModelShape(
        total_parameters=8_072_000_000, trainable_parameters=42_000_000, max_positions=8192, **LLAMA_8B
    ),
    ("smol", "full"): ModelShape(
        total_parameters=134_500_000, trainable_parameters=134_500_000, max_positions=2048, **SMOL
    ),
    ("smol", "lora"): ModelShape(
        total_parameters=139_400_000, trainable_parameters=4_900_000, max_positions=2048, **SMOL
    ),
}


def spec(*, method="lora", nodes=1, processes=1, device="gpu", batch=64, training=None, zero="auto", offload="auto"):
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/base/"},
            "method": {"type": method},
            "data": {"train": [{"uri": "s3://data/rows.jsonl"}]},
            "training": {"epochs": 1, "globalBatchSize": batch, **(training or {})},
            "distributed": {
                "numNodes": nodes,
                "processesPerNode": processes,
                "device": device,
                "zeroStage": zero,
                "offloadOptimizer": offload,
            },
            "checkpoint": {"uri": "s3://runs/x/"},
            "output": {"uri": "s3://models/x/"},
        }
    )


def facts(model, method, *, sequences=10_000, batch=64, tokens=2048, limit=None):
    steps = schedule(sequences, epochs=1, max_steps=None, global_batch_size=batch)
    return Facts(SHAPES[model, method], steps, tokens, limit)


@pytest.mark.parametrize(
    ("model", "method", "nodes", "processes", "stage"),
    [
        ("8b", "lora", 1, 1, 0),
        ("8b", "lora", 1, 2, 2),
        ("8b", "lora", 2, 8, 2),
        ("8b", "full", 2, 8, 2),
        ("smol", "full", 1, 4, 2),
    ],
)
def test_zero_stage(model, method, nodes, processes, stage):
    plan = resolve(spec(method=method, nodes=nodes, processes=processes), facts(model, method))
    assert plan.zero_stage == stage
    assert plan.world_size == nodes * processes


def test_weights_are_sharded_where_they_do_not_fit_whole_and_then_the_optimizer_is_offloaded():
    """48 GB of its state and 24 GB of weights and gradients do not fit on one; a sum of gradients is 8 GB more."""
    one = resolve(spec(method="full", processes=2, batch=2), facts("8b", "full", batch=2))
    many = resolve(spec(method="full", processes=2), facts("8b", "full"))
    assert (one.zero_stage, one.offload_optimizer) == (3, False)
    assert (many.zero_stage, many.offload_optimizer) == (2, True)


def test_muon_is_not_sharded():
    muon = {"optimizer": {"type": "muon"}}
    assert resolve(spec(method="full", processes=2, training=muon), facts("8b", "full")).zero_stage == 0
    with pytest.raises(StageFailure) as caught:
        resolve(spec(method="full", processes=2, device="cpu", training=muon), facts("8b", "full", limit=16 * GIB))
    assert "zeroStage" not in caught.value.message


def test_what_is_set_is_kept():
    chosen = {"microBatchSize": 3, "activationCheckpointing": "on"}
    plan = resolve(spec(processes=2, zero=1, training=chosen), facts("8b", "lora"))
    assert (plan.zero_stage, plan.micro_batch_size, plan.activation_checkpointing) == (1, 3, True)
    assert plan.gradient_accumulation_steps == 11  # 32 sequences of a process, 3 at a time


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("tokens", [60, 512, 2048, 32768])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_micro_batches_make_up_the_global_batch_exactly(nodes, tokens, device):
    plan = resolve(spec(nodes=nodes, processes=2, device=device), facts("smol", "lora", tokens=tokens))
    assert plan.micro_batch_size * plan.gradient_accumulation_steps * plan.world_size == 64
    assert plan.micro_batch_size == 1 or plan.micro_batch_size * tokens <= 16384


def test_activations_are_kept_where_they_fit():
    short = resolve(spec(), facts("8b", "lora"))
    long = resolve(spec(), facts("8b", "lora", tokens=32768))
    assert not short.activation_checkpointing
    assert long.activation_checkpointing


def test_every_second_layer_is_recomputed_before_all_are():
    tokens = range(4096, 120_000, 4096)
    plans = [resolve(spec(), facts("8b", "lora", tokens=count)) for count in tokens]
    modes = [plan.activation_checkpointing and plan.activation_checkpointing_every for plan in plans]
    assert modes == sorted(modes, key=[False, 2, 1].index)
    assert set(modes) == {False, 2, 1}
    chosen = resolve(spec(training={"activationCheckpointing": "selective"}), facts("8b", "lora"))
    assert (chosen.activation_checkpointing, chosen.activation_checkpointing_every) == (True, 2)


def test_a_compiled_model_is_not_divided():
    plan = resolve(spec(method="full", processes=2, training={"compile": True}), facts("8b", "full"))
    assert plan.zero_stage == 2


def test_a_small_data_set_has_smaller_steps():
    plan = resolve(spec(processes=2, device="cpu"), facts("smol", "lora", sequences=7))
    assert plan.micro_batch_size * plan.gradient_accumulation_steps == 4
    assert plan.total_steps == 1


@pytest.mark.parametrize(("device", "precision", "attention"), [("gpu", "bf16", "varlen"), ("cpu", "bf16", "sdpa")])
def test_attention(device, precision, attention):
    plan = resolve(spec(device=device, training={"precision": precision}), facts("smol", "lora"))
    assert (plan.attention, plan.precision) == (attention, precision)


def test_a_memory_limit_is_met_by_more_frugal_choices():
    roomy = resolve(spec(device="cpu"), facts("smol", "full", limit=32 * GIB))
    tight = resolve(spec(device="cpu"), facts("smol", "full", limit=5 * GIB))
    assert not roomy.activation_checkpointing
    assert tight.activation_checkpointing or tight.micro_batch_size < roomy.micro_batch_size
    assert tight.estimated_bytes_per_device <= 5 * GIB


def test_a_model_larger_than_the_limit_is_refused_with_numbers_and_advice():
    job = spec(method="full", nodes=2, processes=2, device="cpu")
    with pytest.raises(StageFailure) as caught:
        resolve(job, facts("8b", "full", limit=16 * GIB))
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_MEMORY)
    message = caught.value.message
    assert message.startswith("training needs about ")
    assert "GiB in each pod (2 processes of " in message
    assert "but its memory limit is 16.0 GiB; raise spec.podTemplate.resources.limits.memory" in message
    assert "set spec.method.type: lora" in message


def test_advice_names_what_the_spec_holds_back():
    fixed = {"activationCheckpointing": "off", "microBatchSize": 8}
    with pytest.raises(StageFailure) as caught:
        resolve(spec(processes=2, device="cpu", zero=0, training=fixed), facts("8b", "lora", limit=8 * GIB))
    for advice in ("zeroStage: 3", "activationCheckpointing: on", "microBatchSize: 1"):
        assert advice in caught.value.message


def test_a_gpu_job_whose_state_no_gpu_holds_is_refused_with_numbers_and_advice():
    large = replace(SHAPES["8b", "full"], total_parameters=70_600_000_000, trainable_parameters=70_600_000_000)
    given = replace(facts("8b", "full"), shape=large)
    with pytest.raises(StageFailure) as caught:
        resolve(spec(method="full", offload="off"), given)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_DEVICE_MEMORY)
    message = caught.value.message
    assert message.startswith("training needs about ")
    assert "of each GPU (weights 131.5 GiB, " in message
    assert "but the largest there is has 268.2 GiB; set spec.method.type: lora" in message
    assert message.endswith("offloadOptimizer: auto or raise spec.distributed.processesPerNode or numNodes")
    assert "podTemplate" not in message
    assert resolve(spec(method="full", nodes=4, processes=8), given).zero_stage == 3


def test_a_gpu_job_that_some_gpu_may_hold_is_tried_and_refused_on_a_smaller_one():
    given, job = facts("8b", "full"), spec(method="full", offload="off")
    assert resolve(job, given).estimated_bytes_per_device > 80 * GIB
    with pytest.raises(
        StageFailure, match=r"but the smallest of the run has 80\.0 GiB; set spec\.method\.type: lora"
    ):
        resolve(job, replace(given, device_bytes=80 * GIB))


def test_the_optimizer_goes_to_the_host_where_nothing_else_fits():
    plan = resolve(spec(method="full"), facts("8b", "full"))
    assert (plan.offload_optimizer, plan.zero_stage) == (True, 2)
    assert plan.estimated_bytes_per_device <= 72 * GIB
    assert not resolve(spec(method="full", nodes=2, processes=8), facts("8b", "full")).offload_optimizer
    assert not resolve(spec(), facts("8b", "lora")).offload_optimizer
    for held_back in ({"offload": "off"}, {"zero": 0}, {"training": {"optimizer": {"type": "adamw8bit"}}}):
        assert not resolve(spec(method="full", **held_back), facts("8b", "full")).offload_optimizer


def test_the_optimizer_goes_to_a_host_that_has_room():
    """Where the pod has no memory limit, that is a share of a machine with eight GPUs."""
    assert resolve(spec(method="full"), facts("8b", "full", limit=256 * GIB)).offload_optimizer
    assert not resolve(spec(method="full"), facts("8b", "full", limit=128 * GIB)).offload_optimizer
    large = ModelShape(
        total_parameters=70_600_000_000, trainable_parameters=70_600_000_000, max_positions=8192, **LLAMA_8B
    )
    with pytest.raises(StageFailure, match=r"or raise spec\.distributed\.processesPerNode or numNodes$"):
        resolve(spec(method="full"), replace(facts("8b", "full"), shape=large))


def test_an_optimizer_that_shall_be_on_the_host_is_refused_where_the_pod_has_no_room():
    job = spec(method="full", processes=2, offload="on")
    assert resolve(job, facts("8b", "full")).offload_optimizer
    with pytest.raises(StageFailure) as caught:
        resolve(job, facts("8b", "full", limit=128 * GIB))
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.OUT_OF_MEMORY)
    assert "GiB of the host's memory in each pod, but its memory limit is 128.0 GiB; raise" in caught.value.message


@pytest.mark.parametrize(("nodes", "zero", "stage"), [(1, "auto", 2), (2, "auto", 2), (1, 1, 1), (2, 3, 3)])
def test_an_optimizer_on_the_host_has_a_stage_that_can(nodes, zero, stage):
    plan = resolve(spec(nodes=nodes, zero=zero, offload="on"), facts("8b", "lora"))
    assert (plan.offload_optimizer, plan.zero_stage) == (True, stage)


def test_on_cpus_an_optimizer_is_offloaded_only_where_the_spec_says_so():
    assert not resolve(spec(method="full", device="cpu"), facts("smol", "full", limit=64 * GIB)).offload_optimizer
    with pytest.raises(StageFailure, match="but its memory limit is"):
        resolve(spec(method="full", device="cpu"), facts("8b", "full", limit=64 * GIB))
    assert resolve(spec(device="cpu", offload="on"), facts("smol", "lora")).offload_optimizer


def test_where_nothing_can_be_given_up_a_smaller_model_is_advised():
    given = facts("8b", "lora")
    large = replace(given, shape=replace(given.shape, total_parameters=700_000_000_000))
    fixed = {"activationCheckpointing": "on", "optimizer": {"type": "muon"}}
    with pytest.raises(StageFailure, match=r"take a smaller model$"):
        resolve(spec(method="freeze", training=fixed), large)


def layout(**changes):
    values = {
        "device": "gpu",
        "precision": "bf16",
        "zero_stage": 0,
        "world_size": 8,
        "micro_batch_tokens": 2048,
        "activation_checkpointing": False,
    }
    return Layout(**{**values, **changes})


def test_each_stage_shards_what_its_paper_says():
    shape = SHAPES["8b", "full"]
    stages = [estimate(shape, layout(zero_stage=stage)) for stage in range(4)]
    parameters = shape.total_parameters
    assert [stage.weights for stage in stages] == [2 * parameters] * 3 + [2 * parameters // 8]
    assert [stage.optimizer for stage in stages] == [12 * parameters] + [12 * parameters // 8] * 3
    assert stages[1].gradients - stages[2].gradients == 2 * parameters - 2 * parameters // 8
    assert stages[2].gradients == stages[3].gradients


def test_an_update_copies_the_gradients_of_16_bits_in_fp32():
    shape, few = SHAPES["8b", "full"], {"micro_batch_tokens": 1}
    whole, shared = estimate(shape, layout(**few)), estimate(shape, layout(zero_stage=2, **few))
    assert (whole.update, shared.update) == (4 * shape.total_parameters, 4 * shape.total_parameters // 8)
    assert whole.total - whole.state == whole.update > whole.activations
    parts = estimate(shape, layout(zero_stage=3, world_size=2, **few))
    assert parts.update == 4_000_000_000  # of the four billions that this process updates, one at a time
    many = estimate(shape, layout(micro_batch_tokens=65536))
    assert many.total - many.state == many.activations > many.update
    assert "update" in str(whole)
    assert "update" not in str(many)


@pytest.mark.parametrize(("stage", "more", "copied"), [(0, 2, 0), (1, 2, 4), (2, 2 / 8, 0), (3, 2 / 8, 4)])
def test_a_sum_of_gradients_takes_4_bytes_each_and_is_what_the_update_takes(stage, more, copied):
    shape = SHAPES["8b", "full"]
    one, many = (estimate(shape, layout(zero_stage=stage, accumulates=sums)) for sums in (False, True))
    assert many.gradients - one.gradients == pytest.approx(more * shape.total_parameters, rel=1e-6)
    # At stage 0 only what is copied at a time on its way to the other processes.
    expected = 500_000_000 * 6 if stage == 0 else copied * shape.total_parameters / 8
    assert many.update == pytest.approx(min(expected, 4e9), rel=0.05)
    alone = estimate(shape, layout(zero_stage=0, world_size=1, accumulates=True))
    assert (alone.gradients, alone.update) == (4 * shape.total_parameters, 0)
    in_fp32 = [estimate(shape, layout(precision="fp32", zero_stage=stage, accumulates=on)) for on in (False, True)]
    assert in_fp32[0] == in_fp32[1]


def test_a_sum_of_gradients_is_on_the_host_at_stage_3_alone():
    shape, shared = SHAPES["8b", "full"], SHAPES["8b", "full"].total_parameters // 8
    for stage, on_device, on_host in ((2, 2, -2), (3, 0, 2)):
        there = layout(zero_stage=stage, offload_optimizer=True)
        one, many = (estimate(shape, replace(there, accumulates=sums)) for sums in (False, True))
        assert many.gradients - one.gradients == pytest.approx(on_device * shared, abs=8)
        assert many.host - one.host == pytest.approx(1.5 * on_host * shared, abs=8)


@pytest.mark.parametrize(("batch", "sums"), [(1, False), (64, True)])
def test_the_sum_is_planned_where_a_step_has_several_micro_batches(batch, sums):
    fixed = {"microBatchSize": 1, "activationCheckpointing": "on"}
    plan = resolve(spec(batch=batch, zero=0, training=fixed), facts("8b", "lora", batch=batch))
    options = {"world_size": 1, "activation_checkpointing": True, "accumulates": sums}
    assert plan.estimated_bytes_per_device == estimate(SHAPES["8b", "lora"], layout(**options)).total


def test_fp32_has_a_master_copy_at_stages_1_and_2_alone():
    shape = SHAPES["8b", "full"]
    whole, _, shared, in_place = (estimate(shape, layout(precision="fp32", zero_stage=stage)) for stage in range(4))
    assert (whole.optimizer, whole.update) == (8 * shape.total_parameters, 0)
    assert (shared.optimizer, shared.update) == (12 * shape.total_parameters // 8, 4 * shape.total_parameters // 8)
    assert in_place.optimizer == 8 * shape.total_parameters // 8


def test_a_trained_head_sums_its_gradient_in_fp32():
    shape = SHAPES["8b", "full"]
    of_head = LLAMA_8B["vocabulary"] * LLAMA_8B["hidden_size"]
    frozen, trained = estimate(shape, layout()), estimate(replace(shape, trained_head=of_head), layout())
    assert trained.activations - frozen.activations == 4 * of_head
    few = {"micro_batch_tokens": 1}
    frozen, trained = (
        estimate(sizes, layout(**few)).activations for sizes in (shape, replace(shape, trained_head=of_head))
    )
    assert trained - frozen == pytest.approx((4 + 2) * of_head, rel=0.01)  # the sum, and its cast for the way back


def test_an_offloaded_optimizer_is_on_the_host_and_not_on_the_device():
    shape = SHAPES["8b", "full"]
    parameters = shape.total_parameters
    for stage in (1, 2, 3):
        here, there = (estimate(shape, layout(zero_stage=stage, offload_optimizer=on)) for on in (False, True))
        assert here.total - there.total >= here.optimizer
        assert (there.weights, there.gradients, there.optimizer, there.update) == (here.weights, here.gradients, 0, 0)
        assert 16 * parameters / 8 < there.host < 30 * parameters / 8
        assert here.host == 0
    on_cpu = estimate(shape, layout(zero_stage=2, device="cpu", offload_optimizer=True))
    assert (on_cpu.optimizer, on_cpu.host) == (20 * parameters // 8, 0)


def test_checkpointing_saves_activations_and_fp32_doubles_weights():
    shape = SHAPES["8b", "lora"]
    kept = estimate(shape, layout())
    recomputed = estimate(shape, layout(activation_checkpointing=True))
    half = estimate(shape, layout(activation_checkpointing=True, activation_checkpointing_every=2))
    assert recomputed.activations < kept.activations / 5
    assert half.activations == pytest.approx((kept.activations + recomputed.activations) / 2, rel=0.1)
    assert estimate(shape, layout(precision="fp32")).weights == 2 * kept.weights


def test_known_sizes():
    """An 8B model in LoRA on one 80 GB GPU is known to train with room; in full it does not fit."""
    assert estimate(SHAPES["8b", "lora"], layout(world_size=1)).total < 40 * GIB
    assert estimate(SHAPES["8b", "full"], layout(world_size=1)).total > 100 * GIB
