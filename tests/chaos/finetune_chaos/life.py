"""One job under chaos: where it is, what of it lives, and a fresh look at it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_api.reasons import Phase
from finetune_api.status import FineTuneJobStatus
from finetune_chaos.kube import Kube
from finetune_chaos.rules import Look, untruths
from finetune_chaos.view import ATTEMPT_LABEL, JOB_LABEL, Pod, read_pod, read_status
from finetune_chaos.watcher import Watcher

SETTLE_SECONDS = 30.0
"""How long the status may lag behind a cluster that is whole."""
CHILDREN = ("pods", "jobs", "networkpolicies")


@dataclass
class Life:
    """A job of a round."""

    name: str
    kube: Kube
    watcher: Watcher
    resumes: int = 0
    """How often it was let go on after a suspension."""
    started: float = field(default_factory=time.monotonic)

    @property
    def selector(self) -> str:
        """Label selector of its children."""
        return f"{JOB_LABEL}={self.name}"

    @property
    def status(self) -> FineTuneJobStatus:
        """Its newest status; Pending when it is not there."""
        return self.watcher.status(self.name) or FineTuneJobStatus()

    @property
    def is_over(self) -> bool:
        """Whether it has ended or is gone."""
        status = self.watcher.status(self.name)
        return status is None or status.phase.is_terminal

    def live_pods(self) -> list[Pod]:
        """Return its pods that may compute, by index."""
        return sorted((pod for pod in self.watcher.pods(self.name) if pod.is_live), key=lambda pod: pod.index)

    def await_phase(self, phase: Phase, seconds: float) -> bool:
        """Wait until it is in a phase, or over; return whether it is in it."""
        self.watcher.wait_until(lambda: self.status.phase is phase or self.is_over, seconds)
        return self.status.phase is phase

    def await_pod(self, fits: Callable[[Pod], bool], seconds: float) -> Pod | None:
        """Wait for a live pod that fits, and return it; None when there is none in time or the job is over."""
        self.watcher.wait_until(lambda: self.is_over or any(fits(pod) for pod in self.live_pods()), seconds)
        return next((pod for pod in self.live_pods() if fits(pod)), None)

    def ends_well(self, pod: Pod, seconds: float) -> bool:
        """Wait until a pod has ended; return whether it has done its work."""
        self.watcher.wait_until(lambda: not any(one.uid == pod.uid for one in self.live_pods()), seconds)
        return any(note == f"pod {pod.name} Succeeded" for _, note in self.watcher.history(self.name))

    def await_end(self, seconds: float) -> bool:
        """Wait until it is over; return whether it is."""
        return self.watcher.wait_until(lambda: self.is_over, seconds)

    def look(self) -> Look | None:
        """Return a fresh look at the cluster, or None when the job is gone."""
        job = self.kube.find("finetunejobs", self.name)
        if job is None:
            return None
        pods = [read_pod(item) for item in self.kube.items("pods", selector=self.selector)]
        jobs = self.kube.items("jobs", selector=self.selector)
        return Look(
            name=self.name,
            generation=job["metadata"]["generation"],
            num_nodes=job["spec"]["distributed"]["numNodes"],
            status=read_status(job),
            pods=pods,
            attempts=frozenset(int(item["metadata"]["labels"][ATTEMPT_LABEL]) for item in jobs),
        )

    def untruths(self) -> list[str]:
        """Return where its status differs from the cluster for longer than Kubernetes takes for a change."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            look = self.look()
            found = untruths(look) if look else []
            if not found or time.monotonic() > end:
                return found
            time.sleep(1)

    def delete(self) -> None:
        """Delete it as a user does."""
        self.kube.delete("finetunejobs", self.name)

    def leftovers(self, seconds: float) -> list[str]:
        """Return what is left of it some seconds after its deletion; returns at once when nothing is."""
        end = time.monotonic() + seconds
        while True:
            left = [
                f"{kind} {item['metadata']['name']}"
                for kind in CHILDREN
                for item in self.kube.items(kind, selector=self.selector)
            ]
            if self.kube.find("finetunejobs", self.name):
                left.append("the FineTuneJob itself")
            if not left or time.monotonic() > end:
                return [f"left over {seconds:.0f} s after deletion: {one}" for one in left]
            time.sleep(1)
