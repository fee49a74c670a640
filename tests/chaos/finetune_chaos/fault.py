"""What a fault is: how it strikes, how it is undone, and what a job may make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from finetune_cluster.layout import Layout

from finetune_api.reasons import Phase, Reason
from finetune_chaos.kube import Kube
from finetune_chaos.life import Life
from finetune_chaos.view import Pod
from finetune_chaos.workload import STEPS

WORKING = (Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.EXPORTING)
ANY = (Phase.PENDING, *WORKING, Phase.RESTARTING)
POD_SECONDS = 45.0


class MissedError(Exception):
    """There was nothing to strike any more."""


@dataclass(frozen=True)
class Target:
    """What a fault may reach."""

    life: Life
    kube: Kube
    layout: Layout
    random: Random

    def pod(self) -> Pod:
        """Return a pod of the job that runs, by chance. Raises MissedError when the job ends before there is one."""
        if self.life.await_pod(_runs, POD_SECONDS) is None:
            raise MissedError("no pod of the job runs")
        running = [pod for pod in self.life.live_pods() if _runs(pod)]
        if not running:
            raise MissedError("the job's pods have just ended")
        return self.random.choice(running)


def _runs(pod: Pod) -> bool:
    return pod.phase == "Running" and not pod.is_leaving


Undo = Callable[[], object]


def nothing() -> None:
    """Undo a fault that Kubernetes itself mends."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    strike: Callable[[Target], Undo]
    phases: tuple[Phase, ...] = WORKING
    hold: tuple[float, float] = (0.0, 0.0)
    """Shortest and longest time until it is undone, in seconds."""
    until_over: bool = False
    """Whether it is undone when the job is over, or after the longest time."""
    restarts: tuple[int, int] = (0, 1)
    """Fewest and most restarts that it may cost."""
    counted: int = 0
    """Most of them that may count against backoffLimit."""
    ends: Reason | None = Reason.SUCCEEDED
    """Reason of the job's end; None: the job is gone."""
    seconds: float = 240.0
    """Longest time from the strike to the end of the job."""
    weight: int = 1
    """How often it comes in a deck."""
    steps: int = STEPS
    """Training steps of the job: a fault that takes long needs more of them."""
