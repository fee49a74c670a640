"""What a policy decides on (`Scene`) and what it answers (`Step`)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from finetune_api.reasons import Phase, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage
from finetune_api.status import FineTuneJobStatus
from finetune_operator.manifests import Blueprint, child_name
from finetune_operator.model import ChildJob, ChildPod, Delete, Observed, RefusedWrite

OVERDUE = timedelta(seconds=30)
"""How long after its grace period a pod that is being deleted counts as lost with its node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a policy decided: where the job is now, and what is to be created and deleted."""

    phase: Phase
    reason: Reason
    message: str
    cause: Reason | None = None
    """Why a stage just failed, if it did; the reason itself may be BackingOff or BackoffLimitExceeded."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Other fields of the status that change."""
    children: tuple[dict[str, Any], ...] = ()
    deletes: tuple[Delete, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One job at one moment: the observation, its spec, and its status with all that the pods told merged in."""

    observed: Observed
    spec: FineTuneJobSpec
    status: FineTuneJobStatus
    now: datetime

    @property
    def stage(self) -> Stage:
        """The stage the job is in, told by its status alone."""
        return stage_of(self.status)

    @property
    def attempt(self) -> int:
        """Number of the current stage's Job: the attempt of training, the try of the other stages."""
        return attempt_of(self.status)

    @property
    def label(self) -> str:
        """The current stage for people: `attempt 2`, `prepare`, `export (try 3)`."""
        if self.stage is Stage.TRAIN:
            return f"attempt {self.attempt}"
        return self.stage.value if self.attempt == 1 else f"{self.stage.value} (try {self.attempt})"

    @property
    def child_name(self) -> str:
        """Name of the current stage's Job."""
        return child_name(self.observed.job.name, self.stage, self.attempt)

    @property
    def child(self) -> ChildJob | None:
        """The current stage's Job, if it is in view."""
        return next((child for child in self.observed.jobs if child.name == self.child_name), None)

    @property
    def pods(self) -> tuple[ChildPod, ...]:
        """Its pods in view, by index."""
        return pods_of(self.observed, self.child_name)

    @property
    def live_pods(self) -> tuple[ChildPod, ...]:
        """Pods of any stage that have not ended."""
        return tuple(pod for pod in self.observed.pods if not pod.is_terminal)

    @property
    def num_pods(self) -> int:
        """Pods the current stage's Job has when it is whole."""
        return self.spec.distributed.num_nodes if self.stage is Stage.TRAIN else 1

    def blueprint(self, stage: Stage, attempt: int) -> Blueprint:
        """Return what a stage's Job is built from."""
        observed = self.observed
        return Blueprint(job=observed.job, spec=self.spec, settings=observed.settings, stage=stage, attempt=attempt)

    def is_hindered_by(self, refused: RefusedWrite) -> bool:
        """Whether a refused creation keeps the current stage from starting; a Service only serves several pods."""
        return refused.name == self.child_name or (refused.kind == "Service" and self.num_pods > 1)

    def seconds_until(self, moment: datetime) -> float:
        """Return the seconds from now to a moment; negative when it is past."""
        return (moment - self.now).total_seconds()


def stage_of(status: FineTuneJobStatus) -> Stage:
    """Return the stage a status speaks of; a phase such as Restarting belongs to any of them."""
    if status.phase is Phase.EXPORTING or status.restarts.export > 0:
        return Stage.EXPORT
    return Stage.TRAIN if status.attempt > 0 else Stage.PREPARE


def attempt_of(status: FineTuneJobStatus) -> int:
    """Return the number of the current stage's Job."""
    match stage_of(status):
        case Stage.PREPARE:
            return status.restarts.prepare + 1
        case Stage.TRAIN:
            return status.attempt
        case Stage.EXPORT:
            return status.restarts.export + 1


def pods_of(observed: Observed, job: str) -> tuple[ChildPod, ...]:
    """Return the pods of one Job by index."""
    return tuple(sorted((pod for pod in observed.pods if pod.job == job), key=lambda pod: (pod.index, pod.name)))


def overdue_at(pod: ChildPod) -> datetime | None:
    """Return when a pod that is being deleted counts as lost, or None when it is not being deleted."""
    return pod.deletion_timestamp + OVERDUE if pod.deletion_timestamp else None
