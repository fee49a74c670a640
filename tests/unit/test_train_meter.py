"""How fast a training is and how well it uses its devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from plain_models import plain_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.model.flops import count_flops
from finetune_trainer.train import meter
from finetune_trainer.train.devices import Devices, peak_flops
from finetune_trainer.train.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    """Return the time in seconds, to be moved by hand."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def test_speed_is_averaged_over_the_newest_steps(clock):
    taken = Meter()
    taken.begin(4)
    for done in range(5, 45):
        clock[0] += 1.0 if done < 25 else 2.0
        speed = taken.step(done, tokens=100, flops=5e12, waited=0.5)
    assert speed.seconds_per_step == 2.0
    assert speed.tokens_per_second == 50.0
    assert speed.flops_per_second == 2.5e12
    assert speed.data_wait_share == 0.25


def test_the_clock_starts_anew_after_the_work_before_the_first_step(clock):
    taken = Meter()
    taken.begin(0)
    clock[0] += 600  # the base model is scored
    taken.begin(0)
    clock[0] += 2
    assert taken.step(1, tokens=100, flops=0.0, waited=0.0).tokens_per_second == 50.0


def test_what_is_done_between_steps_is_no_step(clock):
    """Each is left out as it ends: an evaluation, and the save of it."""
    taken = Meter()
    taken.begin(0)
    for done in range(1, 31):
        clock[0] += 1
        speed = taken.step(done, tokens=100, flops=5e12, waited=0.5)
        if done % 10 == 0:
            for seconds in (600, 60):
                clock[0] += seconds
                taken.skip()
    assert speed.seconds_per_step == 1.0
    assert (speed.tokens_per_second, speed.flops_per_second, speed.data_wait_share) == (100.0, 5e12, 0.5)


def test_the_time_left_holds_the_evaluations_to_come(clock):
    """As many of them as there were in the steps so far; the work before the first step does not come again."""
    taken = Meter()
    taken.begin(0)
    clock[0] += 600  # the base model is scored
    taken.skip()
    taken.begin(500)
    for done in range(501, 601):
        clock[0] += 1
        taken.step(done, tokens=100, flops=0.0, waited=0.0)
        if done % 10 == 0:
            clock[0] += 60
            taken.skip()
    assert taken.seconds_left(900) == 6300.0
    assert taken.seconds_left(0) == 0.0


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name_or_not_at_all(name, tflops):
    assert peak_flops(name, "bf16") == (tflops and tflops * 1e12)
    assert peak_flops(name, "fp32") is None


def test_without_a_peak_there_is_no_utilisation():
    assert Devices(torch.device("cpu"), None).mfu(1e12) is None
    assert Devices(torch.device("cpu"), 4e12).mfu(1e12) == 0.25


TOKENS = 48


def base_of(model):
    """Return the transformers model, whether or not adapters wrap it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def measured(model):
    """Return the operations of one pass forward and back over a row, as torch counts them."""
    ids = torch.arange(3, 3 + TOKENS)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "method",
    [{"type": "full"}, {"type": "freeze"}, {"type": "lora"}],
    ids=lambda method: method["type"],
)
def test_counted_operations_are_those_that_torch_does(tiny_model, method):
    model = plain_model(tiny_model, method)
    flops = count_flops(base_of(model))
    # The plain model computes the upper half of each attention matrix too, and its head for every token.
    counted = replace(flops, per_pair=2 * flops.per_pair).of(np.asarray([TOKENS]), TOKENS)
    # torch also counts the angles of the positions, and knows that adapters of the first layer pass nothing back.
    assert counted == pytest.approx(measured(model), rel=0.03)


def test_frozen_weights_take_two_thirds(tiny_model):
    models = [plain_model(tiny_model, {"type": name}) for name in ("full", "lora")]
    full, lora = (count_flops(base_of(model)) for model in models)
    weights = full.per_token / 6
    adapters = sum(parameter.numel() for parameter in models[1].parameters() if parameter.requires_grad)
    # Nothing below the first adapter needs a gradient.
    assert 4 * weights + 5 * adapters < lora.per_token < 4 * weights + 6 * adapters
    assert full.per_target == 6 * 512 * 64
    assert lora.per_target == 4 * 512 * 64


def test_short_rows_need_less_attention(tiny_model):
    flops = count_flops(plain_model(tiny_model, {"type": "full"}))
    one, many = (flops.of(np.asarray(lengths), 0) for lengths in ([60], [20, 20, 20]))
    assert one - many == flops.per_pair * (60**2 - 3 * 20**2)


@pytest.mark.parametrize(
    ("kind", "extra", "sliding_share"),
    [
        ("mistral", {"sliding_window": 8}, 1.0),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}, 0.0),
        ("gemma3_text", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, 0.75),
    ],
)
def test_layers_that_slide_meet_the_tokens_of_their_window(kind, extra, sliding_share):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 64, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads, **extra))
    flops = count_flops(model)
    whole, windowed = 20**2, 2 * (8 * 20 - 8 * 8 // 2)  # twice the pairs, for causality leaves half of them
    attention = flops.of(np.asarray([20]), 0) - 20 * flops.per_token
    assert attention == flops.per_pair * (sliding_share * windowed + (1 - sliding_share) * whole)
    assert flops.of(np.asarray([8]), 0) == 8 * flops.per_token + flops.per_pair * 8**2


def test_a_model_of_experts_has_no_count():
    config = AutoConfig.for_model(
        "qwen3_moe",
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert count_flops(model) is None
