"""Parameters that ZeRO stage 3 holds in parts, as if they were whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def whole_shape(tensor: torch.Tensor) -> torch.Size:
    """Return the shape of a tensor; a parameter that ZeRO stage 3 shards is empty, and DeepSpeed keeps its shape."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


@contextmanager
def whole(tensor: torch.Tensor, *, writes: bool = False) -> Iterator[None]:
    """While this lasts, a parameter that is sharded over the processes is whole on each; all must call it."""
    if not hasattr(tensor, "ds_id"):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([tensor], modifier_rank=0 if writes else None):
        yield


def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Put values of the whole shape into a tensor of the model. Every process must call it, with the same values."""
    with whole(tensor, writes=True), torch.no_grad():
        tensor.copy_(values)
