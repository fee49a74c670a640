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
        self._on_gpu = device.type == "cuda"
        self._pending: deque[_Pending] = deque()

    def push(self, done: int, loss_sum: torch.Tensor, grad_norm: float | torch.Tensor, votes: Votes) -> None:
        """Hand in this process's part of a step."""
        sums = torch.cat([loss_sum.reshape(1), loss_sum.new_tensor([votes.stop, votes.due, votes.busy])])
        dist.all_reduce(sums)
        norm = torch.as_tensor(grad_norm, dtype=sums.dtype, device=sums.device)
        vector = torch.cat([sums, norm.reshape(1)])
        self._pending.append(_to_host(done, vector) if self._on_gpu else _Pending(done, vector, None))

    def ready(self, *, flush: bool) -> list[Outcome]:
        """Return the outcomes that can be read without waiting, or all of them, oldest first."""
        keep = 1 if self._on_gpu and not flush else 0
        return [self._pending.popleft().read() for _ in range(len(self._pending) - keep)]


@dataclass(frozen=True)
class _Pending:
    done: int
    vector: torch.Tensor
    """On the host."""
    arrived: torch.cuda.Event | None
    """When the copy to the host is complete; None: there is none to wait for."""

    def read(self) -> Outcome:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss_sum, stop, due, busy, grad_norm = self.vector.tolist()
        return Outcome(self.done, loss_sum, grad_norm, Votes(stop=stop > 0, due=due > 0, busy=busy > 0))


def _to_host(done: int, vector: torch.Tensor) -> _Pending:
    """Start the copy to the host behind the work of this step, and do not wait for it."""
    host = torch.empty_like(vector, device="cpu", pin_memory=True)
    host.copy_(vector, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return _Pending(done, host, arrived)
