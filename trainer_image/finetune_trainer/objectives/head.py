"""The head and its cross-entropy over tiles of tokens, with the gradient made on the way forward.

The logits of a tile are the largest tensor of a step. Automatic differentiation would keep them, or compute them a
second time on the way back; but the gradient of a cross-entropy is known as soon as the logits are
(softmax - one-hot), so each tile is finished at once: what is kept is as large as the hidden states. This is what
https://arxiv.org/abs/2410.10989 does in a kernel (fused linear cross-entropy), here in PyTorch's own operations and
with tiles of many tokens, which keep the matrix products efficient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

TILE_BYTES = 512 * 2**20
"""Most memory of one tile's logits in fp32."""
Logits = Callable[[torch.Tensor], torch.Tensor]
"""From hidden states [N, hidden size] to logits [N, vocabulary]."""


class Scored(NamedTuple):
    """Sum of the cross-entropies (fp32), and how many tokens were predicted right (int64; 0 unless counted)."""

    loss: torch.Tensor
    correct: torch.Tensor


@dataclass(frozen=True)
class Scoring:
    """How predictions are scored."""

    count_correct: bool = False
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the vocabulary (https://arxiv.org/abs/1512.00567)."""


def score(head: nn.Linear, hidden: torch.Tensor, labels: torch.Tensor, scoring: Scoring) -> Scored:
    """Score hidden states [N, hidden size] against labels, int64 [N]."""
    matrix: list[torch.Tensor | None] = [head.weight, head.bias]
    if not torch.is_grad_enabled():  # autograd asks for gradients of parameters all the same
        matrix = [None if tensor is None else tensor.detach() for tensor in matrix]
    tile = _tile_tokens(head.out_features)
    return Scored(*_TiledCrossEntropy.apply(hidden, *matrix, labels, tile, scoring))


def score_in_one_call(
    head: nn.Module, hidden: torch.Tensor, labels: torch.Tensor, scoring: Scoring, *, vocabulary: int
) -> Scored:
    """Score with a head that ZeRO stage 3 puts together for as long as it is called.

    A call is a collective, so all processes have to make the same number of them, whatever each of them predicts.
    """
    own, found = head.forward, []

    def scored(states: torch.Tensor) -> torch.Tensor:
        if type(head) is nn.Linear:
            found.append(score(head, states, labels, scoring))
        else:
            found.append(score_by_module(own, states, labels, scoring, vocabulary=vocabulary))
        return found[0].loss

    with _forward(head, scored):
        loss = head(hidden)
    return Scored(loss, found[0].correct)


@contextmanager
def _forward(module: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give a module another forward pass; what hooks do around it stays."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def score_by_module(
    head: Logits, hidden: torch.Tensor, labels: torch.Tensor, scoring: Scoring, *, vocabulary: int
) -> Scored:
    """Score with a head that is more than one matrix, an adapter for example, computing each tile twice."""
    tile = _tile_tokens(vocabulary)
    pairs = list(zip(torch.split(hidden, tile), torch.split(labels, tile), strict=True))
    if len(pairs) == 1 or not torch.is_grad_enabled():
        scored = [_score(head, *pair, scoring) for pair in pairs]
    else:
        scored = [checkpoint(_score, head, *pair, scoring, use_reentrant=False) for pair in pairs]
    losses, correct = zip(*scored, strict=True)
    return Scored(torch.stack(losses).sum(), torch.stack(correct).sum())


def _tile_tokens(vocabulary: int) -> int:
    """Return how many tokens' logits exist at one time."""
    return max(1, TILE_BYTES // (4 * vocabulary))


def is_one_matrix(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is a plain linear layer that this process holds whole."""
    return type(head) is nn.Linear and not is_sharded(head)


def is_sharded(head: nn.Module) -> bool:
    """Whether ZeRO stage 3 has divided a head among the processes."""
    return any(hasattr(parameter, "ds_id") for parameter in head.parameters())


def _score(head: Logits, hidden: torch.Tensor, labels: torch.Tensor, scoring: Scoring) -> Scored:
    logits = head(hidden).float()
    correct = (logits.argmax(-1) == labels).sum() if scoring.count_correct else labels.new_zeros(())
    loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=scoring.label_smoothing)
    return Scored(loss, correct)


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        tile: int,
        scoring: Scoring,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs = ctx.needs_input_grad
        grads = _Gradients(
            hidden=torch.empty_like(hidden) if needs[0] else None,
            weight=torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None,
            bias=torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs[2] else None,
        )
        loss = hidden.new_zeros((), dtype=torch.float32)
        correct = labels.new_zeros(())
        for start in range(0, len(hidden), tile):
            span = slice(start, start + tile)
            logits = linear(hidden[span], weight, bias).float()
            if scoring.count_correct:
                correct += (logits.argmax(-1) == labels[span]).sum()
            loss += _to_gradient(logits, labels[span], scoring.label_smoothing)
            if any(needs[:3]):
                grads.add(span, logits.to(hidden.dtype), hidden[span], weight)
        ctx.save_for_backward(*(grads.hidden, grads.weight, grads.bias))
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place, since the sum over the vocabulary is among the largest tensors of a step. Going back through a
        # graph that was retained is refused by autograd, which sees that saved tensors were changed.
        hidden, weight, bias = ctx.saved_tensors
        scale, dtypes = outputs[0], ctx.dtypes
        return (
            None if hidden is None else hidden.mul_(scale.to(hidden.dtype)),
            None if weight is None else weight.mul_(scale).to(dtypes[0]),
            None if bias is None else bias.mul_(scale).to(dtypes[1]),
            None,
            None,
            None,
        )


class _Gradients(NamedTuple):
    """Gradients of the sum of the cross-entropies; those of the head are summed in fp32."""

    hidden: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def add(self, span: slice, logits: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        """Add a tile, given the gradient of its logits [N, vocabulary]."""
        if self.hidden is not None:
            torch.mm(logits, weight, out=self.hidden[span])
        if self.weight is not None:
            self.weight.add_(logits.T @ hidden)
        if self.bias is not None:
            self.bias.add_(logits.sum(0))


def _to_gradient(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the sum of the cross-entropies, and leave their gradient where the logits were."""
    normaliser = torch.logsumexp(logits, -1, keepdim=True)
    targets = (1 - smoothing) * logits.gather(1, labels[:, None])
    if smoothing:
        targets += smoothing * logits.mean(-1, keepdim=True)
    loss = (normaliser - targets).sum()
    logits.sub_(normaliser).exp_()
    if smoothing:
        logits.sub_(smoothing / logits.shape[1])
    logits.scatter_add_(1, labels[:, None], torch.full_like(normaliser, smoothing - 1))
    return loss
