"""What a policy decides on (`Scene`) and what it answers (`Step`)."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from finetune_api.reasons import Phase, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage
from finetune_api.status import FineTuneJobStatus
from finetune_operator.manifests import Blueprint, child_name
from finetune_operator.manifests.names import QUEUE_NAME_LABEL
from finetune_operator.model import ChildJob, ChildPod, Delete, JobCondition, Observed, RefusedWrite

OVERDUE = timedelta(seconds=30)
"""How long after its grace period a pod that is being deleted counts as lost with its node."""
FAILED_POD = JobCondition(type="Failed", status="True")


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
    probes: tuple[dict[str, Any], ...] = ()
    deletes: tuple[Delete, ...] = ()
    requeue_after: float | None = None


class Outcome(NamedTuple):
    """A stage that is over."""

    failure: JobCondition | None
    """What Kubernetes says of its failure; None: it succeeded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One job at one moment: the observation, its spec, and its status with all that the pods told merged in."""

    observed: Observed
    spec: FineTuneJobSpec
    status: FineTuneJobStatus
    now: datetime

    @property
    def stage(self) -> Stage:
        """The stage the job is in."""
        return stage_of(self.status)

    @property
    def attempt(self) -> int:
        """Number of the current stage's child: the attempt of training, the try of the other stages."""
        return attempt_of(self.status)

    @property
    def next_attempt(self) -> int:
        """Number with which the current stage begins anew; a try's has grown with its failure already."""
        return self.attempt + 1 if self.stage is Stage.TRAIN else self.attempt

    @property
    def label(self) -> str:
        """The current stage for people: `attempt 2`, `prepare`, `export (try 3)`."""
        if self.stage is Stage.TRAIN:
            return f"attempt {self.attempt}"
        return self.stage.value if self.attempt == 1 else f"{self.stage.value} (try {self.attempt})"

    @property
    def child_name(self) -> str:
        """Name of the current stage's Job, or of its pod."""
        return child_name(self.observed.job.name, self.stage, self.attempt)

    @property
    def job(self) -> ChildJob | None:
        """The Job of the current training attempt, if it is in view."""
        return next((child for child in self.observed.jobs if child.name == self.child_name), None)

    @property
    def pods(self) -> tuple[ChildPod, ...]:
        """The current stage's pods in view, by index."""
        return pods_of(self.observed, self.child_name)

    @property
    def child(self) -> ChildJob | ChildPod | None:
        """What carries the current stage, if it is in view: the Job of training, the pod of prepare and export."""
        return self.job if self.stage is Stage.TRAIN else next(iter(self.pods), None)

    @property
    def outcome(self) -> Outcome | None:
        """How the current stage ended, or None while it goes on."""
        if self.stage is Stage.TRAIN:
            job = self.job
            return Outcome(job.failure) if job and job.is_finished else None
        if not self.pods or not self.pods[0].is_terminal:
            return None
        return Outcome(None if self.pods[0].phase == "Succeeded" else FAILED_POD)

    @property
    def live_pods(self) -> tuple[ChildPod, ...]:
        """Pods of any stage that have not ended."""
        return tuple(pod for pod in self.observed.pods if not pod.is_terminal)

    @property
    def open_jobs(self) -> tuple[ChildJob, ...]:
        """Jobs of attempts that may still make pods."""
        return tuple(child for child in self.observed.jobs if not child.is_finished)

    @property
    def leaving(self) -> tuple[str, ...]:
        """Children that have ended or will, and whose names are not free yet."""
        pods = (pod for pod in self.observed.pods if pod.is_whole_stage and pod.deletion_timestamp)
        return tuple(f"Job {job.name}" for job in self.open_jobs) + tuple(f"pod {pod.name}" for pod in pods)

    @property
    def is_busy(self) -> bool:
        """Whether anything is there that must be gone before something new starts."""
        return bool(self.live_pods or self.leaving)

    @property
    def is_queued(self) -> bool:
        """Whether a queue decides when training starts."""
        return QUEUE_NAME_LABEL in self.observed.job.labels

    @property
    def num_pods(self) -> int:
        """Pods of the current stage."""
        return self.spec.distributed.num_nodes if self.stage is Stage.TRAIN else 1

    def blueprint(self, stage: Stage, attempt: int) -> Blueprint:
        """What the child of a stage is built from."""
        observed = self.observed
        return Blueprint(
            job=observed.job,
            spec=self.spec,
            settings=observed.settings,
            stage=stage,
            attempt=attempt,
            run_id=self.status.run_id or observed.job.uid,
            out_of_memory=self.status.restarts.out_of_memory,
        )

    def is_hindered_by(self, refused: RefusedWrite) -> bool:
        """Whether a refused creation keeps the current stage from starting; a child of another stage does not."""
        return refused.kind not in ("Job", "Pod") or refused.name == self.child_name

    def seconds_until(self, moment: datetime) -> float:
        """Return the seconds from now to a moment; negative when it is past."""
        return (moment - self.now).total_seconds()


def stage_of(status: FineTuneJobStatus) -> Stage:
    """Return the stage a status speaks of; a phase such as Restarting belongs to any of them."""
    return Stage(status.stage)


def attempt_of(status: FineTuneJobStatus) -> int:
    """Return the number of the current stage's child."""
    match stage_of(status):
        case Stage.PREPARE:
            return status.restarts.prepare + 1
        case Stage.TRAIN:
            return status.attempt
        case Stage.EXPORT:
            return status.restarts.export + 1


def pods_of(observed: Observed, child: str) -> tuple[ChildPod, ...]:
    """Return the pods of one Job by index, or the one pod of a stage."""
    return tuple(sorted((pod for pod in observed.pods if pod.job == child), key=lambda pod: (pod.index, pod.name)))


def overdue_at(pod: ChildPod) -> datetime | None:
    """Return when a pod that is being deleted counts as lost, or None when it is not being deleted."""
    return pod.deletion_timestamp + OVERDUE if pod.deletion_timestamp else None
