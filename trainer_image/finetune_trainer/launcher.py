"""PID 1 of a training pod: starts one worker per process of the node and ends with the first failure's exit code.

Not torchrun, which turns every exit code into 1 and gives a worker 30 s to save after SIGTERM. The workers share
our standard output. Each writes its last word to a file of its own; ours is that of the first failure, or of
global rank 0 when all is well.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import RENDEZVOUS_PORT, StageInput, TerminationMessage
from finetune_trainer import log
from finetune_trainer.errors import WorkersFailed
from finetune_trainer.stage_input import TERMINATION_LOG_VARIABLE, Pod

WORKER_COMMAND = (sys.executable, "-m", "finetune_trainer", "train-worker")
STOP_GRACE_SECONDS = 110.0
"""From SIGTERM to SIGKILL: less than the pod's terminationGracePeriodSeconds of 120."""
FAILURE_GRACE_SECONDS = 10.0
"""From the first failure to SIGKILL of the others: they can only wait for the one that is gone."""
_SIGNAL_BASE = 128


@dataclass(frozen=True)
class Ended:
    """A worker that ended: its global rank and exit code, which is 128 + n for signal n."""

    rank: int
    code: int

    @property
    def failed(self) -> bool:
        """Whether this is a failure: neither done nor stopped on request."""
        return self.code not in (ExitCode.DONE, ExitCode.STOPPED)


@dataclass(frozen=True)
class Workers:
    """The workers of this pod."""

    first_rank: int
    count: int
    world_size: int
    master: tuple[str, int]
    """Host and port of global rank 0."""
    messages: Path
    """Folder of their last words."""
    command: Sequence[str] = WORKER_COMMAND
    stop_grace: float = STOP_GRACE_SECONDS
    failure_grace: float = FAILURE_GRACE_SECONDS

    def message_file(self, rank: int) -> Path:
        """Return where a worker leaves its last word."""
        return self.messages / f"rank-{rank}.json"

    def environment(self, rank: int) -> dict[str, str]:
        """Return the variables that torch.distributed and the worker read."""
        host, port = self.master
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank - self.first_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.count),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
            TERMINATION_LOG_VARIABLE: str(self.message_file(rank)),
        }


def run_workers(job: StageInput, pod: Pod, *, port: int = RENDEZVOUS_PORT) -> TerminationMessage:
    """Run this pod's workers to their end; return global rank 0's last word, or a plain success elsewhere.

    Raises WorkersFailed with the first failure's exit code (75 when they stopped on request).
    """
    distributed = job.spec.distributed
    workers = Workers(
        first_rank=pod.index * distributed.processes_per_node,
        count=distributed.processes_per_node,
        world_size=distributed.num_nodes * distributed.processes_per_node,
        master=(job.master_address, port),
        messages=pod.work_dir / "last-words",
    )
    return conclude(workers, asyncio.run(supervise(workers)))


def conclude(workers: Workers, ended: Sequence[Ended]) -> TerminationMessage:
    """Return the pod's last word, given how its workers ended, in that order. Raises WorkersFailed."""
    failure = next((worker for worker in ended if worker.failed), None)
    failure = failure or next((worker for worker in ended if worker.code == ExitCode.STOPPED), None)
    if failure is not None:
        # Workers that end alike at the same moment say the same; rank 0 alone knows progress and checkpoints.
        failure = min((worker for worker in ended if worker.code == failure.code), key=lambda worker: worker.rank)
        raise WorkersFailed(failure.code, _last_word(workers, failure))
    return _last_word(workers, min(ended, key=lambda worker: worker.rank))


def _last_word(workers: Workers, worker: Ended) -> TerminationMessage:
    try:
        return TerminationMessage.model_validate_json(workers.message_file(worker.rank).read_bytes())
    except (OSError, ValidationError):
        if worker.code == ExitCode.DONE:
            return TerminationMessage(reason=Reason.SUCCEEDED, message="the workers left no message")
        return TerminationMessage(reason=Reason.CRASHED, message=_obituary(worker))


def _obituary(worker: Ended) -> str:
    if worker.code > _SIGNAL_BASE:
        number = worker.code - _SIGNAL_BASE
        name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
        cause = f"was killed by {name}"
        if number == signal.SIGKILL:
            cause += ", as by the kernel when memory runs out; see spec.podTemplate.resources.limits"
    else:
        cause = f"ended with exit code {worker.code} and left no message; see the pod's log"
    return f"training process of rank {worker.rank} {cause}"


async def supervise(workers: Workers) -> list[Ended]:
    """Start the workers and return how they ended, in order. SIGTERM is passed on to them."""
    workers.messages.mkdir(parents=True, exist_ok=True)
    ended: list[Ended] = []
    stopping = asyncio.Event()
    processes = await _start_all(workers)

    def pass_on_stop() -> None:
        log.info("stop-requested")
        stopping.set()
        _send(processes.values(), signal.SIGTERM)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pass_on_stop)
    watchers = [asyncio.create_task(_watch(rank, process, ended)) for rank, process in processes.items()]
    guard = asyncio.create_task(_enforce_stop(stopping, workers.stop_grace, processes))
    try:
        await _until_all_ended(watchers, ended, workers, processes)
    finally:
        guard.cancel()
    return ended


async def _start_all(workers: Workers) -> dict[int, Process]:
    processes = {}
    for rank in range(workers.first_rank, workers.first_rank + workers.count):
        workers.message_file(rank).unlink(missing_ok=True)
        environment: Mapping[str, str] = {**os.environ, **workers.environment(rank)}
        processes[rank] = await asyncio.create_subprocess_exec(*workers.command, env=environment)
    return processes


async def _watch(rank: int, process: Process, ended: list[Ended]) -> None:
    code = await process.wait()
    worker = Ended(rank, code if code >= 0 else _SIGNAL_BASE - code)
    ended.append(worker)
    log.info("worker-ended", workerRank=rank, exitCode=worker.code)


async def _until_all_ended(
    watchers: Sequence[asyncio.Task[None]], ended: Sequence[Ended], workers: Workers, processes: Mapping[int, Process]
) -> None:
    pending = set(watchers)
    while pending and not any(worker.failed for worker in ended):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=workers.failure_grace)
    if pending:
        log.warning("workers-killed", cause="another worker failed", count=len(pending))
        _send(processes.values(), signal.SIGKILL)
        await asyncio.wait(pending)


async def _enforce_stop(stopping: asyncio.Event, grace: float, processes: Mapping[int, Process]) -> None:
    await stopping.wait()
    await asyncio.sleep(grace)
    log.warning("workers-killed", cause=f"they did not stop within {grace:.0f} s")
    _send(processes.values(), signal.SIGKILL)


def _send(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        if process.returncode is None:
            process.send_signal(number)
