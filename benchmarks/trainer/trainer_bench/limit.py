"""The bare-matmul limit: how fast training of adapters would be if it were nothing but the model's matrix products.

Each product of the forward pass and of the backward pass is timed alone, at the size that it has in a micro-batch.
Adapters, attention, norms, optimizer and everything else are left out, so no trainer reaches it.
"""

import time
from collections.abc import Callable

import torch
from transformers import PreTrainedConfig

from trainer_bench.shapes import matrices

REPEATS = 10


def seconds_per_batch(
    config: PreTrainedConfig, *, tokens: int, supervised: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Return the seconds of all products of a batch of so many tokens."""
    body, head = matrices(config)
    total = sum(count * product_seconds(size, tokens, device, dtype) for size, count in body.items())
    return total + product_seconds(head, supervised, device, dtype)


def product_seconds(size: tuple[int, int], tokens: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of a linear layer's product, and of its input's gradient."""
    outputs, inputs = size
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    states = torch.randn(max(1, tokens), inputs, device=device, dtype=dtype)
    grads = torch.randn(max(1, tokens), outputs, device=device, dtype=dtype)
    return _time(lambda: states @ weight.T, device) + _time(lambda: grads @ weight, device)


def _time(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest seconds of a few runs: what others do to the clock is no limit of the device."""
    best = float("inf")
    for _ in range(REPEATS):
        _finish(device)
        start = time.perf_counter()
        work()
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
