"""What the processes agree on in every step: one small all-reduce carries it all.

The vector holds the sum of the cross-entropies and three votes: stop (SIGTERM arrived somewhere), due (rank 0 wants
a checkpoint) and busy (an upload is in flight somewhere). On a GPU it is read one step later, so that the host
never waits for the device in the middle of the work; the processes all read it at the same step, so they agree.
"""

from collections import deque
from dataclasses import dataclass
from math import isfinite

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Votes:
    """One process's votes, or whether any process voted so."""

    stop: bool = False
    due: bool = False
    busy: bool = False


@dataclass(frozen=True)
class Outcome:
    """A step over all processes."""

    done: int
    """Steps done, this one included."""
    loss_sum: float
    """Sum of the cross-entropies over all supervised tokens."""
    grad_norm: float
    """Before clipping."""
    votes: Votes

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradients are numbers; DeepSpeed tells a norm that is none as -1."""
        return isfinite(self.loss_sum) and isfinite(self.grad_norm) and self.grad_norm >= 0


class StepSync:
    """Collects the outcome of every step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lag = 1 if device.type == "cuda" else 0
        self._pending: deque[tuple[int, torch.Tensor, float | torch.Tensor]] = deque()

    def push(self, done: int, loss_sum: torch.Tensor, grad_norm: float | torch.Tensor, votes: Votes) -> None:
        """Hand in this process's part of a step."""
        flags = loss_sum.new_tensor([votes.stop, votes.due, votes.busy])
        vector = torch.cat([loss_sum.reshape(1), flags])
        dist.all_reduce(vector)
        self._pending.append((done, vector, grad_norm))

    def ready(self, *, flush: bool) -> list[Outcome]:
        """Return the outcomes that can be read without waiting, or all of them, oldest first."""
        keep = 0 if flush else self._lag
        return [self._read(*self._pending.popleft()) for _ in range(len(self._pending) - keep)]

    @staticmethod
    def _read(done: int, vector: torch.Tensor, grad_norm: float | torch.Tensor) -> Outcome:
        loss_sum, *votes = vector.tolist()
        return Outcome(done, loss_sum, float(grad_norm), Votes(*(vote > 0 for vote in votes)))
