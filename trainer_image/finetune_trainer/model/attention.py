"""Attention over documents that lie one after the other in a single row of tokens, without a mask.

transformers hands every keyword argument of the model on to its attention function, so the boundaries travel as
one argument, `documents`, and no mask of tokens x tokens is ever made. Two backends compute the same numbers:

    varlen  `torch.nn.attention.varlen` on CUDA in bf16: the boundaries go straight into the kernel
    sdpa    everywhere else: documents of like length are gathered into a padded block each. Padding stands at the
            right, where causal attention never looks from a real token, so no mask is needed there either. Windows
            that are shorter than a document go in chunks, under one small mask (`sliding`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from finetune_trainer.model import sliding
from finetune_trainer.model.virtual import VirtualTokens, place

IMPLEMENTATION = "finetune_documents"
"""Name under which the function is registered: the model's `attn_implementation`."""

Backend = Literal["varlen", "sdpa"]

_SLACK_TOKENS = 32
_SLACK_SHARE = 4
"""A document joins a longer one's block when it is shorter by at most 32 tokens or a quarter of the block: below
that, a kernel call of its own costs more than the padding."""


@dataclass(frozen=True)
class Documents:
    """Boundaries of D documents in T tokens, virtual ones included, and how the sdpa backend lays them out.

    blocks[i] is the shape of a block, (documents, length); cells, int64 [C], holds the token of each cell of all
    blocks one after the other; restore, int64 [T], the cell of each token.
    """

    backend: Backend
    cu_seqlens: torch.Tensor
    max_seqlen: int
    blocks: tuple[tuple[int, int], ...]
    cells: torch.Tensor
    restore: torch.Tensor
    virtual: VirtualTokens | None = None
    """Where virtual tokens stand before the documents' own."""
    bands: dict[tuple[int, torch.dtype], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)
    """Masks of windows that layers have asked for; the others, and those that are recomputed, ask for the same."""

    def band(self, window: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the mask of chunks with a window, made when first asked for."""
        if (window, dtype) not in self.bands:
            self.bands[window, dtype] = sliding.band(window, dtype, self.cells.device)
        return self.bands[window, dtype]


def backend_for(device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the backend that a device and a number format get."""
    return "varlen" if device.type == "cuda" and dtype == torch.bfloat16 else "sdpa"


def documents(
    cu_seqlens: torch.Tensor, device: torch.device, backend: Backend, *, virtual_tokens: int = 0
) -> Documents:
    """Return the layout of documents with the boundaries cu_seqlens, int32 [D + 1] on the CPU.

    Before each document stand so many virtual tokens, which the boundaries given do not count.
    """
    bounds, virtual = place(cu_seqlens.numpy().astype(np.int64), virtual_tokens, device)
    lengths = np.diff(bounds)
    blocks = [] if backend == "varlen" else [_cells(bounds, members) for members in group(lengths.tolist())]
    cells = np.concatenate([block.ravel() for block in blocks]) if blocks else np.empty(0, np.int64)
    restore = np.empty(int(bounds[-1]) if blocks else 0, np.int64)
    # Written from the last cell to the first: a padding cell repeats the document's last token, whose own cell stands
    # before it and must win.
    restore[cells[::-1]] = np.arange(cells.size)[::-1]
    return Documents(
        backend=backend,
        cu_seqlens=torch.from_numpy(bounds.astype(np.int32)).to(device, non_blocking=True),
        max_seqlen=int(lengths.max()),
        blocks=tuple((block.shape[0], block.shape[1]) for block in blocks),
        cells=torch.from_numpy(cells).to(device, non_blocking=True),
        restore=torch.from_numpy(restore).to(device, non_blocking=True),
        virtual=virtual,
    )


def group(lengths: Sequence[int]) -> list[list[int]]:
    """Group documents of like length; each group is listed from long to short."""
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda document: -lengths[document]):
        if not groups or longest - lengths[index] > max(_SLACK_TOKENS, longest // _SLACK_SHARE):
            groups.append([])
            longest = lengths[index]
        groups[-1].append(index)
    return groups


def _cells(bounds: NDArray[np.int64], members: list[int]) -> NDArray[np.int64]:
    starts, ends = bounds[members], bounds[np.asarray(members) + 1]
    columns = np.arange(int((ends - starts).max()), dtype=np.int64)
    cells: NDArray[np.int64] = np.minimum(starts[:, None] + columns, ends[:, None] - 1)
    return cells


def attend(  # noqa: PLR0913 - the signature is transformers'
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    documents: Documents,
    prefix: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **unsupported: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally inside each document: query [1, heads, T, head size] -> [1, T, heads, head size].

    With `prefix`, [virtual tokens, layers, 2, key heads, head size], each document's keys and values follow its
    layer's of it. Raises ValueError for attention that neither backend computes (soft-capped scores, sinks).
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if unsupported.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} uses {name}, which attention over packed rows does not compute"
            )
    window = sliding_window if sliding_window is not None and sliding_window < documents.max_seqlen else None
    how = _Manner(scaling, dropout, window)
    compute = _varlen if documents.backend == "varlen" else _blocks
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if prefix is None or documents.virtual is None:
        return compute(query, key, value, documents, how)[None], None
    keys, values = prefix[:, getattr(module, "layer_idx")].unbind(1)  # noqa: B009 - the module's type is any
    # Queries of nobody beside the prefix's keys: so both have the same boundaries, and no mask is needed.
    nobody = query.new_zeros(len(keys), *query.shape[1:])
    virtual = documents.virtual
    states = virtual.before(nobody, query), virtual.before(keys, key), virtual.before(values, value)
    return compute(*states, documents, how).index_select(0, virtual.texts)[None], None


class _Manner(NamedTuple):
    scaling: float | None
    dropout: float
    window: int | None
    """Tokens that a query sees, itself included; None: its whole document up to itself."""


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Documents, how: _Manner
) -> torch.Tensor:
    # Imported here: it exists for CUDA builds of torch alone.
    from torch.nn.attention.varlen import varlen_attn

    if how.dropout:
        raise ValueError("attention dropout is not computed by varlen attention; set it to 0 in the model's config")
    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    attended = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=how.scaling,
        window_size=(-1 if how.window is None else how.window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, torch.Tensor)  # noqa: S101 - a tuple comes only when auxiliary outputs are asked for
    return attended


def _blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Documents, how: _Manner
) -> torch.Tensor:
    attended = []
    attend_block = partial(_block, how=how)
    sizes = [documents * length for documents, length in layout.blocks]
    spread = [torch.split(_spread(states, layout), sizes) for states in (query, key, value)]
    for shape, *cells in zip(layout.blocks, *spread, strict=True):
        # [cells, heads, size] -> [documents, length, heads, size]
        states = [part.unflatten(0, shape) for part in cells]
        if how.window is None or shape[1] <= how.window:
            output = attend_block(*states)
        else:
            mask = layout.band(how.window, query.dtype)
            output = sliding.attend_in_windows(*states, mask=mask, attend=attend_block)
        attended.append(output.flatten(0, 1))
    return _restore(torch.cat(attended), layout)


def _block(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None, *, how: _Manner
) -> torch.Tensor:
    """Attend in documents of equal length, [documents, length, heads, size]: causally, or under a mask."""
    return scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=how.dropout,
        scale=how.scaling,
        enable_gqa=query.shape[2] != key.shape[2],
    ).transpose(1, 2)


def _spread(states: torch.Tensor, layout: Documents) -> torch.Tensor:
    """Return the state of each cell's token, [T, heads, size] -> [C, heads, size]."""
    spread: torch.Tensor = _Spread.apply(states, layout.cells, layout.restore)
    return spread


def _restore(cells: torch.Tensor, layout: Documents) -> torch.Tensor:
    """Return the state of each token's cell, [C, heads, size] -> [T, heads, size]."""
    restored: torch.Tensor = _Restore.apply(cells, layout.restore)
    return restored


class _Spread(torch.autograd.Function):
    """Gathers cells. The gradient of a padding cell is zero, so that a token's is its own cell's.

    No query of a real token sees a padding cell, and what padding cells attend to is thrown away. Indexing would sum
    them up all the same: a scatter with a sum, which takes several times as long as a gather.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cells: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(restore)
        return states.index_select(0, cells)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (restore,) = ctx.saved_tensors
        return outputs[0].index_select(0, restore), None, None


class _Restore(torch.autograd.Function):
    """Gathers tokens; each has a cell of its own, so that the gradient is put there and nothing is summed up."""

    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(restore)
        ctx.size = len(cells)
        return cells.index_select(0, restore)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        (restore,) = ctx.saved_tensors
        grad = outputs[0]
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, restore, grad), None


def register() -> None:
    """Make the function known to transformers."""
    AttentionInterface.register(IMPLEMENTATION, attend)
