"""Gradients in bf16 that are summed up in fp32, by autograd or by DeepSpeed."""

import pytest
import torch
from plans import RESOLVED
from torch import nn

from finetune_api.spec import Training
from finetune_trainer.train import gradients
from finetune_trainer.train.engine import deepspeed_config


def plan_of(stage, micro_batches, precision="bf16"):
    changes = {"zero_stage": stage, "gradient_accumulation_steps": micro_batches, "precision": precision}
    return RESOLVED.model_copy(update=changes)


class TwoWeights(nn.Module):
    """One weight that every pass uses, one that none does, and one that is not trained."""

    def __init__(self, dtype):
        super().__init__()
        self.used, self.unused, self.frozen = (nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(3))
        self.frozen.requires_grad = False


def trained_by(plan, dtype=torch.bfloat16):
    """Return the module after a step of 1,000 micro-batches, each of which has a gradient of ones."""
    module = TwoWeights(dtype)
    gradients.sum_in_fp32(module, plan)
    for _ in range(1000):
        (module.used * module.frozen).sum().backward()
    gradients.complete(module, plan)
    return module


@pytest.mark.parametrize("stage", [0, 1])
def test_a_sum_of_many_loses_none(stage):
    module = trained_by(plan_of(stage, 1000))
    assert (module.used.grad.dtype, module.used.grad.tolist()) == (torch.float32, [1000.0] * 3)
    assert module.used.dtype == torch.bfloat16
    assert (module.unused.grad.dtype, module.unused.grad.tolist()) == (torch.float32, [0.0] * 3)
    assert module.frozen.grad is None


@pytest.mark.parametrize(
    ("plan", "dtype"),
    [
        (plan_of(0, 1), torch.bfloat16),
        (plan_of(2, 1000), torch.bfloat16),
        (plan_of(3, 1000), torch.bfloat16),
        (plan_of(0, 1000, "fp32"), torch.float32),
    ],
)
def test_gradients_are_left_alone_where_nothing_is_summed_or_another_does_it(plan, dtype):
    module = trained_by(plan, dtype)
    assert module.used.grad.dtype == dtype
    assert module.unused.grad is None


@pytest.mark.parametrize(
    ("stage", "micro_batches", "precision", "told"),
    [
        (0, 4, "bf16", {}),
        (1, 4, "bf16", {}),
        (2, 4, "bf16", {"grad_accum_dtype": "fp32"}),
        (3, 4, "bf16", {"grad_accum_dtype": "fp32"}),
        (3, 1, "bf16", {}),
        (2, 4, "fp32", {}),
    ],
)
def test_deepspeed_is_told_to_sum_up_in_fp32_where_it_can(stage, micro_batches, precision, told):
    plan = plan_of(stage, micro_batches, precision)
    assert deepspeed_config(plan, Training(epochs=1), device="cpu", hidden_size=64)["data_types"] == told
