"""Trained rows of an embedding or a head, without a copy of the whole matrix.

peft writes the trained rows into a copy of the matrix at each forward pass, and makes a gradient as large as it. Here
the frozen matrix stays where it is: its output is replaced where a trained row was meant.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from torch.nn.functional import embedding, linear


def replace_outputs(model: nn.Module) -> None:
    """Let the trained rows of a model be used so; where that does not fit, peft's forward pass is kept."""
    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer) and len(layer.token_indices) == 1:
            (ids,) = layer.token_indices.values()
            layer.register_buffer(
                "row_ids", torch.tensor(ids, device=layer.base_layer.weight.device), persistent=False
            )
            is_embedding = isinstance(layer.base_layer, nn.Embedding)
            layer.forward = MethodType(_embed if is_embedding else _predict, layer)


def _embed(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the embeddings of tokens x [...]."""
    if args or kwargs or not _is_plain(layer):
        return _inherited(layer, x, *args, **kwargs)
    # [..., 1] of each token: which of the rows it is.
    row = torch.bucketize(x, layer.row_ids).clamp_(max=len(layer.row_ids) - 1)
    trained = embedding(row, _rows(layer))
    scale = layer._get_embed_scale()
    if scale is not None:
        trained = trained * scale.to(trained.dtype)
    return torch.where((layer.row_ids[row] == x)[..., None], trained, layer.base_layer(x))


def _predict(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return the logits of hidden states x [..., hidden size]."""
    if args or kwargs or not _is_plain(layer) or layer.base_layer.bias is not None:
        return _inherited(layer, x, *args, **kwargs)
    logits: torch.Tensor = layer.base_layer(x)
    return logits.index_copy_(-1, layer.row_ids, linear(x, _rows(layer)))


def _rows(layer: Any) -> Any:
    return layer.trainable_tokens_delta[next(iter(layer.token_indices))]


def _is_plain(layer: Any) -> bool:
    """Whether the rows are in use as they are."""
    return not layer.disable_adapters and not layer.merged and layer.active_adapters == [*layer.token_indices]


def _inherited(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    output: torch.Tensor = type(layer).forward(layer, x, *args, **kwargs)
    return output
