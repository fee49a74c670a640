"""NEFTune: uniform noise on the embeddings of training tokens (https://arxiv.org/abs/2310.05914)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from finetune_trainer.model.attention import Documents


class EmbeddingNoise:
    """Adds noise to what an embedding returns, within +-alpha / sqrt(tokens of the document x hidden size)."""

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: torch.Tensor | None = None
        """Tokens of each document that gets noise."""
        if alpha:
            embedding.register_forward_hook(self._add)

    @contextmanager
    def on(self, documents: Documents | None) -> Iterator[None]:
        """Add noise while this lasts, to the tokens of these documents; None: add none."""
        self._lengths = _text_lengths(documents) if documents is not None else None
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], embedded: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [1, T, hidden size] with noise."""
        if self._lengths is None:
            return embedded
        _, tokens, width = embedded.shape
        lengths = torch.repeat_interleave(self._lengths, self._lengths, output_size=tokens)
        bounds = self._alpha * (lengths * width).rsqrt()
        return embedded + (torch.rand_like(embedded) * 2 - 1) * bounds[:, None].to(embedded.dtype)


def _text_lengths(documents: Documents) -> torch.Tensor:
    """Return the tokens of each document without the virtual ones, int32 [D]."""
    lengths = documents.cu_seqlens.diff()
    return lengths if documents.virtual is None else lengths - documents.virtual.count
