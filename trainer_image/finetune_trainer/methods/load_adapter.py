"""Bottleneck adapters (https://arxiv.org/abs/1902.00751): puts those of a folder into their base model.

    from load_adapter import load
    from transformers import AutoModelForCausalLM

    model = load(AutoModelForCausalLM.from_pretrained("base"), "adapter")

This file stands beside the adapter's weights and needs torch and safetensors alone.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

NAME = "bottleneck"
"""Name of an adapter in the module whose output goes through it."""
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Bottleneck(nn.Module):
    """Adds to hidden states what two small matrices make of them: nothing, at first."""

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.activation = _ACTIVATIONS[activation]()
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states [..., width]."""
        added: torch.Tensor = self.up(self.activation(self.down(hidden)))
        return hidden + added


def put_behind(module: nn.Module, bottleneck: Bottleneck) -> None:
    """Let the output of a module go through an adapter, which becomes a part of it."""
    module.add_module(NAME, bottleneck)
    module.register_forward_hook(_through)


def load(base: Any, folder: str | Path) -> Any:
    """Put the adapters of a folder into a model of transformers, and return it."""
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    activation = json.loads((Path(folder) / "adapter_config.json").read_text())["activation"]
    for path in sorted({name.rpartition(f".{NAME}.")[0] for name in tensors}):
        size, width = tensors[f"{path}.{NAME}.down.weight"].shape
        put_behind(base.get_submodule(path), Bottleneck(width, size, activation).to(base.device, base.dtype))
    unknown = base.load_state_dict(tensors, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the base model has no place for {unknown[:3]}")
    return base


def _through(module: Any, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (module.bottleneck(output[0]), *output[1:])
    return module.bottleneck(output)
