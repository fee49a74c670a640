"""PID 1 of a training pod: starts one worker per process of the node and ends with the first failure's exit code.

Not torchrun, which turns every exit code into 1 and gives a worker 30 s to save after SIGTERM. The workers share
our standard output. Each writes its last word to a file of its own; ours is that of the first failure, or of
global rank 0 when all is well.
"""

import asyncio
import signal
from collections.abc import Sequence

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import StageInput, TerminationMessage
from finetune_trainer.errors import WorkersFailed
from finetune_trainer.stage_input import Pod
from finetune_trainer.supervision import supervise
from finetune_trainer.workers import SIGNAL_BASE, Ended, Workers

_KILL_CAUSES: dict[int, str] = {
    signal.SIGKILL: ", as by the kernel when memory runs out; see spec.podTemplate.resources.limits",
    signal.SIGBUS: ", as when /dev/shm is full; see the memory limit in spec.podTemplate.resources.limits",
}
_OWN_CODES = frozenset(ExitCode) - {ExitCode.KILLED}
"""Codes that a worker chooses; with any other one it crashed."""


def run_workers(job: StageInput, pod: Pod, *, master: tuple[str, int]) -> TerminationMessage:
    """Run this pod's workers to their end; return global rank 0's last word, or a plain success elsewhere.

    `master` is the address and port where all processes of the run meet. Raises WorkersFailed with the first
    failure's exit code (75 when they stopped on request).
    """
    distributed = job.spec.distributed
    workers = Workers(
        first_rank=pod.index * distributed.processes_per_node,
        count=distributed.processes_per_node,
        world_size=distributed.num_nodes * distributed.processes_per_node,
        master=master,
        messages=pod.work_dir / "last-words",
    )
    return conclude(workers, asyncio.run(supervise(workers)))


def conclude(workers: Workers, ended: Sequence[Ended]) -> TerminationMessage:
    """Return the pod's last word, given how its workers ended, in that order. Raises WorkersFailed."""
    failure = next((worker for worker in ended if worker.failed and not _follows_stop(worker, ended)), None)
    failure = failure or next((worker for worker in ended if worker.code == ExitCode.STOPPED), None)
    if failure is not None:
        # Workers that end alike at the same moment say the same; rank 0 alone knows progress and checkpoints.
        failure = min((worker for worker in ended if worker.code == failure.code), key=lambda worker: worker.rank)
        raise WorkersFailed(failure.code, _last_word(workers, failure))
    return _last_word(workers, min(ended, key=lambda worker: worker.rank))


def _follows_stop(worker: Ended, ended: Sequence[Ended]) -> bool:
    """Whether a worker crashed after another had stopped on request: it lost its peer, which tells nothing."""
    before = ended[: ended.index(worker)]
    return worker.code not in _OWN_CODES and any(peer.code == ExitCode.STOPPED for peer in before)


def _last_word(workers: Workers, worker: Ended) -> TerminationMessage:
    try:
        return TerminationMessage.model_validate_json(workers.message_file(worker.rank).read_bytes())
    except (OSError, ValidationError):
        if worker.code == ExitCode.DONE:
            return TerminationMessage(reason=Reason.SUCCEEDED, message="the workers left no message")
        if worker.code == ExitCode.STOPPED:
            return TerminationMessage(reason=Reason.STOPPED, message="stopped on request before training had begun")
        return TerminationMessage(reason=Reason.CRASHED, message=_obituary(worker))


def _obituary(worker: Ended) -> str:
    if worker.code > SIGNAL_BASE:
        number = worker.code - SIGNAL_BASE
        name = signal.Signals(number).name if number in signal.valid_signals() else str(number)
        cause = f"was killed by {name}{_KILL_CAUSES.get(number, '')}"
    else:
        cause = f"ended with exit code {worker.code} and left no message; see the pod's log"
    return f"training process of rank {worker.rank} {cause}"
