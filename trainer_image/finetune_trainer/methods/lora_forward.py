"""A low-rank adapter added in one pass over its layer's output.

peft computes `output + B(A(x)) * scaling`: three passes over tensors of the output's size on the way forward, and
one more on the way back. Here the scaling is applied between A and B, where there are only `rank` columns, and the
product with B is added to the output by the matrix product itself (the `beta` of BLAS): the same sum, up to rounding.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
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
    flat = x.flatten(0, -2)
    output: torch.Tensor = layer.base_layer(flat)
    low = linear(layer.lora_dropout[name](flat), down.weight) * layer.scaling[name]
    # In place where the output is known to be a tensor of its own: that of 8-bit weights may be a view.
    add = output.addmm_ if type(layer.base_layer).__name__ in _OWN_OUTPUT else output.addmm
    return add(low, up.weight.T).view(*x.shape[:-1], -1)


def _is_plain(layer: Any, name: str) -> bool:
    """Whether the adapter is in use and no variant such as DoRA."""
    return (
        not layer.disable_adapters and not layer.merged and layer.active_adapters == [name] and not layer.lora_variant
    )


def _fits(x: torch.Tensor, down: Any, up: Any) -> bool:
    """Whether this process holds both matrices whole (not so under ZeRO stage 3), in the input's number format."""
    whole = not hasattr(down.weight, "ds_id") and up.bias is None
    return whole and x.dtype == down.weight.dtype and not torch.is_autocast_enabled(x.device.type)
