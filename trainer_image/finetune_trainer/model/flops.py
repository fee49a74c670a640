"""The floating-point operations that training a model cannot do without: what MFU takes a share of.

Model FLOPs utilisation (https://arxiv.org/abs/2204.02311, appendix B) counts what the mathematics needs, not what is
computed: activations that are computed a second time count for nothing. For each weight of a linear layer and each
token: 2 on the way forward, 2 for the gradient of what goes in, 2 for that of the weight if it is trained. That makes
6 N per token in full training, 4 N and a little with adapters, and 2 N in layers below all that is trained. The head
is needed at supervised tokens alone. Attention multiplies two pairs of matrices on the way forward and four on the
way back, of which causality leaves half, and a window that is shorter than a row its part.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_trainer.model.sharded import whole_shape


@dataclass(frozen=True)
class Flops:
    """Operations of one step forward and back."""

    per_token: float
    per_target: float
    """For each supervised token, beside those of a token: the head."""
    per_pair: float
    """For each token times the tokens of its row that attention has it meet."""
    window: int | None = None
    """Tokens that a token sees in layers that slide, itself included."""
    sliding_share: float = 0.0
    """Of the layers, how many slide."""

    def of(self, lengths: NDArray[np.int64], targets: int) -> float:
        """Return the operations for rows of so many tokens, `targets` of which are supervised."""
        pairs = np.square(lengths, dtype=np.float64)
        if self.window is not None:
            pairs -= self.sliding_share * np.square(np.maximum(lengths - self.window, 0), dtype=np.float64)
        return self.per_token * float(lengths.sum()) + self.per_target * targets + self.per_pair * float(pairs.sum())


def count_flops(model: PreTrainedModel, *, trains_inputs: bool = False) -> Flops | None:
    """Return the operations of a model, adapters included; None where tokens do not meet every weight (experts).

    What is trained before its first layer counts for nothing, but gradients go all the way back to it.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if heads is None or getattr(config, "num_experts_per_tok", None):
        return None
    output = model.get_output_embeddings()
    of_head = set(output.modules()) if output is not None else set()
    body, head = _Part(), _Part()
    is_behind_trained = trains_inputs
    for name, module in model.named_modules():
        trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        # peft keeps the module that a trained copy stands in for.
        if not name.endswith("original_module"):
            (head if module in of_head else body).add(_size(module), back=is_behind_trained, trained=trained)
        is_behind_trained = is_behind_trained or trained
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    back_share = body.back / body.size if body.size else 0.0
    per_pair = config.num_hidden_layers * heads * head_size * (2 + 4 * back_share)
    return Flops(body.flops, head.flops, per_pair, getattr(config, "sliding_window", None), _sliding_share(config))


def _sliding_share(config: Any) -> float:
    """Return how many of the layers have a window; without a list of their types, all have the model's."""
    types = getattr(config, "layer_types", None)
    return types.count("sliding_attention") / len(types) if types else 1.0


def _size(module: nn.Module) -> int:
    """Return the weights of a linear layer; 0 of anything else. Those of 4 bits have another shape in memory."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return whole_shape(module.weight).numel() if isinstance(module, Conv1D) else 0


@dataclass
class _Part:
    """Sums over the linear layers of a part of the model."""

    size: int = 0
    back: int = 0
    """Weights through which a gradient goes on to what lies before."""
    flops: float = 0.0

    def add(self, size: int, *, back: bool, trained: bool) -> None:
        self.size += size
        self.back += size * back
        self.flops += size * (2 + 2 * back + 2 * trained)
