"""A low-rank adapter added in one pass over its layer's output, and its gradient over that of the layer's input.

peft computes `output + B(A(x)) * scaling`: three passes over tensors of the output's size on the way forward, and
two more on the way back. Here the scaling is applied between A and B, where there are only `rank` columns, and the
product with B is added to the output by the matrix product itself (the `beta` of BLAS), as is the product with A to
the gradient of the input: the same sums, up to rounding.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

_KINDS = frozenset({"Linear", "Linear4bit", "Linear8bitLt"})
"""peft's layers that hold the adapter of a linear layer; the last two exist only where bitsandbytes does."""

_OWN_OUTPUT = frozenset({"Linear", "Linear4bit"})


def add_in_one_pass(model: nn.Module) -> None:
    """Let the plain adapters of a model be added so; any other kind keeps peft's forward pass."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and type(layer).__name__ in _KINDS and len(layer.lora_A) == 1:
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    (name,) = layer.lora_A
    down, up = layer.lora_A[name], layer.lora_B[name]
    if args or kwargs or not _is_plain(layer, name) or not _fits(x, down, up):
        inherited: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
        return inherited
    flat, base, scaling = x.flatten(0, -2), layer.base_layer, layer.scaling[name]
    if _is_frozen(base) and not _drops(layer.lora_dropout[name]):
        added: torch.Tensor = _Added.apply(flat, base.weight, base.bias, down.weight, up.weight, scaling)
        return added.view(*x.shape[:-1], added.shape[-1])  # x may have no rows
    output: torch.Tensor = base(flat)
    low = linear(layer.lora_dropout[name](flat), down.weight) * scaling
    # In place where the output is known to be a tensor of its own: that of 8-bit weights may be a view.
    add = output.addmm_ if type(base).__name__ in _OWN_OUTPUT else output.addmm
    return add(low, up.weight.T).view(*x.shape[:-1], output.shape[-1])


class _Added(torch.autograd.Function):
    """x [T, in] to x W' + b + s (x A') B', [T, out], where W [out, in] and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Return the output."""
        low = torch.mm(x, down.T).mul_(scaling)
        output = torch.mm(x, weight.T) if bias is None else torch.addmm(bias, x, weight.T)
        ctx.save_for_backward(x, weight, down, up, low)
        ctx.scaling = scaling
        return output.addmm_(low, up.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return the gradients of the input, where it has one, and of A and B."""
        x, weight, down, up, low = ctx.saved_tensors
        gradient_low = torch.mm(gradient, up).mul_(ctx.scaling)
        of_x = torch.mm(gradient, weight).addmm_(gradient_low, down) if ctx.needs_input_grad[0] else None
        return of_x, None, None, torch.mm(gradient_low.T, x), torch.mm(low.T, gradient).T, None


def _is_frozen(base: nn.Module) -> bool:
    """Whether it is a plain linear layer of which nothing is trained."""
    if type(base) is not nn.Linear:
        return False
    return not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)


def _drops(dropout: nn.Module) -> bool:
    return dropout.training and not isinstance(dropout, nn.Identity)


def _is_plain(layer: Any, name: str) -> bool:
    """Whether the adapter is in use and no variant such as DoRA."""
    return (
        not layer.disable_adapters and not layer.merged and layer.active_adapters == [name] and not layer.lora_variant
    )


def _fits(x: torch.Tensor, down: Any, up: Any) -> bool:
    """Whether this process holds both matrices whole (not so under ZeRO stage 3), in the input's number format."""
    whole = not hasattr(down.weight, "ds_id") and up.bias is None
    return whole and x.dtype == down.weight.dtype and not torch.is_autocast_enabled(x.device.type)
