"""Gradients of a step's micro-batches: in bf16 they are added up in fp32.

A number of 16 bits that has grown to some 256 times of what is added to it stays as it is. Summed up in bf16, the
gradients of late micro-batches would be lost, and a step would depend on how it is divided. At ZeRO stages 2 and 3
DeepSpeed sums each process's share up in fp32 if it is told so. At stages 0 and 1 gradients stay whole until the last
micro-batch, and DeepSpeed knows no sum of other numbers than the weights' (stage 0) or takes another optimizer for it
whose checkpoints differ (stage 1): there autograd sums them up in fp32. Where a step is one micro-batch there is no
sum, and gradients stay in bf16.
"""

from collections.abc import Iterator

import torch
from torch import nn

from finetune_api.status import Plan


def are_summed_in_fp32(plan: Plan) -> bool:
    """Whether gradients are added up in another number format than that of the weights."""
    return plan.precision == "bf16" and plan.gradient_accumulation_steps > 1


def deepspeed_types(plan: Plan) -> dict[str, str]:
    """Return DeepSpeed's `data_types`: what tells it to sum up in fp32, where it does so."""
    return {"grad_accum_dtype": "fp32"} if are_summed_in_fp32(plan) and plan.zero_stage >= 2 else {}


def sum_in_fp32(module: nn.Module, plan: Plan) -> None:
    """Have autograd add gradients up in fp32 where that is needed and DeepSpeed does not do it."""
    for parameter in _summed_by_autograd(module, plan):
        parameter.grad_dtype = torch.float32


def complete(module: nn.Module, plan: Plan) -> None:
    """Give zeros to trained parameters that have no gradient yet, before the last backward pass of a step.

    DeepSpeed gives zeros of 16 bits to those that no process has used, which autograd refuses as gradients in fp32.
    """
    for parameter in _summed_by_autograd(module, plan):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, dtype=torch.float32)


def _summed_by_autograd(module: nn.Module, plan: Plan) -> Iterator[nn.Parameter]:
    """Yield the trained parameters, if autograd adds their gradients up in fp32."""
    if are_summed_in_fp32(plan) and plan.zero_stage < 2:
        yield from (parameter for parameter in module.parameters() if parameter.requires_grad)
