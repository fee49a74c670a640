"""Attention in which a query sees a window of tokens, itself included, without a mask of tokens x tokens.

The first `window` queries of a document see all before them, which is plain causal attention. Those behind them go
chunk by chunk, each beside its own keys and those of the window before it. All chunks have the same mask, small
enough to be kept: `band`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Attends to keys and values [N, K, heads, size] from queries [N, Q, heads, size]: causally, or under a mask [Q, K]
that is added to the scores."""

_QUERIES = 256
"""Of a chunk. Measured on CPUs, 128 to 512 take the same time with windows of 128 to 4096; with more of them, more of
what is computed is masked."""
_ALIGNED = 8
"""Numbers: the kernel of GPUs keeps a padded copy, for each call, of a mask whose rows do not begin at multiples."""


def band(window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a chunk's mask [Q, window + Q]: 0 where a query sees a key, else -inf. The chunk's own keys stand last.

    It is no mask of booleans: of those torch would make numbers in each call, and keep them for the way back.
    """
    queries = _QUERIES - window % _ALIGNED
    hidden = torch.full((queries, window + queries), float("-inf"), dtype=dtype, device=device)
    return hidden.triu(window + 1).add_(hidden.tril())


def attend_in_windows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, mask: torch.Tensor, attend: Attend
) -> torch.Tensor:
    """Attend inside documents of equal length that begin at 0, [N, length, heads, size]; mask is a window's band."""
    window, length = mask.shape[1] - mask.shape[0], query.shape[1]
    starts = [0, *range(window, length, mask.shape[0])]
    ends = [*starts[1:], length]
    pieces = torch.split(query, [end - start for start, end in zip(starts, ends, strict=True)], dim=1)
    attended = []
    for piece, start, end in zip(pieces, starts, ends, strict=True):
        first = max(0, start - window)
        keys, key = _cut(key, first, end)
        values, value = _cut(value, first, end)
        chunk_mask = mask[: end - start, : end - first] if start else None
        attended.append(attend(piece, keys, values, chunk_mask))
    return torch.cat(attended, dim=1)


def _cut(states: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states of [first, end), and those of all for the next cut."""
    cut: tuple[torch.Tensor, torch.Tensor] = _Cut.apply(states, first, end)
    return cut


class _Cut(torch.autograd.Function):
    """Takes a slice. The gradients of slices that overlap are summed up in one tensor, which goes from cut to cut.

    Indexing would make a tensor of the whole length for each slice.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.first, ctx.end = first, end
        return states[:, first:end], states.view_as(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        of_slice, sums = outputs
        # Nothing else holds the sums: they come from the next cut or, behind the last, are zeros that torch made.
        sums[:, ctx.first : ctx.end] += of_slice
        return sums, None, None
