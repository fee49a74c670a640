"""The training processes of a pod, as their launcher sees them: what each is told, and how it ended."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_trainer.stage_input import TERMINATION_LOG_VARIABLE

WORKER_COMMAND = (sys.executable, "-m", "finetune_trainer", "train-worker")
STOP_GRACE_SECONDS = 110.0
"""From SIGTERM to SIGKILL: less than the pod's terminationGracePeriodSeconds of 120."""
FAILURE_GRACE_SECONDS = 10.0
"""From the first failure to SIGKILL of the others: they can only wait for the one that is gone."""
STACKS_SECONDS = 5.0
"""From the first SIGUSR1, on which a worker writes its stacks, to SIGKILL."""
SIGNAL_BASE = 128


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
    stacks_grace: float = STACKS_SECONDS

    @property
    def ranks(self) -> range:
        """Their global ranks."""
        return range(self.first_rank, self.first_rank + self.count)

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
