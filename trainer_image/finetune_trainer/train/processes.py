"""The processes of a training run and what they tell one another."""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from finetune_trainer.errors import StageFailure

Value = TypeVar("Value")


@dataclass(frozen=True)
class Process:
    """This process among all."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def pod_ranks(self) -> range:
        """Global ranks of the processes in this pod, which share its scratch space."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_world_size)


def join(device: str, timeout: timedelta) -> Process:
    """Join the run that the launcher's variables describe; a process waits so long for its peers.

    In a collective the watchdog acts long before, and a process that dies is noticed at once, by its closed
    connection.
    """
    # What DeepSpeed prints while it is imported, or holds on to as a log stream, would break the JSON lines.
    with redirect_stdout(sys.stderr):
        import deepspeed

        local_rank = int(os.environ["LOCAL_RANK"])
        if device == "gpu":
            torch.cuda.set_device(local_rank)
        backend = "nccl" if device == "gpu" else "gloo"
        deepspeed.init_distributed(dist_backend=backend, timeout=timeout, auto_mpi_discovery=False, verbose=False)
    return Process(
        rank=dist.get_rank(),
        local_rank=local_rank,
        world_size=dist.get_world_size(),
        local_world_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        device=torch.device("cuda", local_rank) if device == "gpu" else torch.device("cpu"),
    )


def be_deterministic() -> None:
    """Refuse operations whose result depends on the order in which threads end.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def seed(value: int, process: Process) -> None:
    """Seed this process's random numbers, which are its own: dropout differs between the processes."""
    torch.manual_seed(value + process.rank)


def from_rank_zero(value: Value) -> Value:
    """Return rank 0's value on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def everywhere(flag: bool, process: Process) -> bool:
    """Return whether a flag is set on every rank."""
    return all_sum(torch.tensor([float(flag)], device=process.device))[0] == process.world_size


def anywhere(flag: bool, process: Process) -> bool:
    """Return whether a flag is set on any rank."""
    return all_sum(torch.tensor([float(flag)], device=process.device))[0] > 0


def meet(process: Process) -> None:
    """Wait until every rank has come here."""
    all_sum(torch.zeros(1, device=process.device))


def all_sum(values: torch.Tensor) -> list[float]:
    """Return the sums of values over all ranks."""
    dist.all_reduce(values)
    return values.tolist()


def smallest_device(process: Process) -> int | None:
    """Return the bytes of the smallest GPU of the run; None on CPUs."""
    if process.device.type != "cuda":
        return None
    size = torch.tensor(torch.cuda.get_device_properties(process.device).total_memory, device=process.device)
    dist.all_reduce(size, op=dist.ReduceOp.MIN)
    return int(size)


def on_rank_zero(process: Process, action: Callable[[], Value]) -> Value:
    """Run an action on rank 0 and return its result on every rank; its StageFailure too is raised on every rank."""
    result: Value | StageFailure | None = None
    if process.rank == 0:
        try:
            result = action()
        except StageFailure as failure:
            result = failure
    result = from_rank_zero(result)
    if isinstance(result, StageFailure):
        raise result
    return cast(Value, result)
