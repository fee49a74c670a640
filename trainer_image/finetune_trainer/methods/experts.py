"""Experts of a mixture: a layer holds all of a kind in one tensor [experts, ., .], which is no linear layer.

For most mixtures peft knows which tensors were linear layers once, and `all-linear` adapts these too.
"""

from collections.abc import Iterator

from peft.tuners.lora.layer import ParamWrapper
from torch import nn


def left_out(model: nn.Module) -> int:
    """Return the parameters of experts that no low-rank matrices change; `model` has its adapters."""
    wrappers = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    adapted = {id(wrapper.get_param()) for wrapper in wrappers}
    return sum(tensor.numel() for tensor in _tensors(model) if id(tensor) not in adapted)


def _tensors(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            yield from (tensor for tensor in module.parameters(recurse=False) if tensor.ndim == 3)
