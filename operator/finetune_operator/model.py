"""The records between observing, deciding and applying.

`observe` fills an `Observed` from the store; `reconcile(observed, now)` answers with a `Plan`; `apply` carries it
out. All of them are frozen and slim: they hold what a decision needs and nothing else of the Kubernetes objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.base import Record
from finetune_api.pods import Resources
from finetune_api.reasons import Reason
from finetune_api.stage import ProgressSample, Stage
from finetune_api.status import FineTuneJobStatus


class Prices(Record):
    """What GPUs cost: it makes status.usage.cost."""

    currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    """ISO 4217 code."""
    gpu_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Price of an hour of one GPU by the name of its resource, such as nvidia.com/gpu."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodSettings:
    """What the manifests take from the operator's settings."""

    trainer_image: str
    """Image where a job names none."""
    progress_url: str
    """Base URL of the progress server, without a path."""
    progress_ca: str
    """PEM of the authority that signed its certificate."""
    stage_resources: Resources = field(default_factory=Resources)
    """Requests and limits of the prepare and export pods where a job sets none."""
    operator_namespace: str = ""
    """Where the progress server runs."""
    allow_privileged: bool = False
    """Whether an admission policy sees to it that only an admin sets privileged fields."""
    api_versions: frozenset[str] = frozenset()
    """API versions of groups that the cluster serves, such as scheduling.volcano.sh/v1beta1."""
    network_policies: bool = False
    """Whether each job gets a NetworkPolicy."""
    network_ports: tuple[int, ...] = ()
    """TCP ports that it opens to any address beside those of S3."""
    prices: Prices = field(default_factory=Prices)
    force_delete_after: float = 300.0
    """Seconds after its grace period at which a pod is removed by force; 0 never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuneJob:
    """One FineTuneJob as the API server holds it."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Mapping[str, Any]
    """The spec as it stands in the object, camelCase."""
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    """Read by `parse_status`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those that name a queue (kueue.x-k8s.io/...)."""
    deleting: bool = False
    """Whether it has a deletionTimestamp."""
    version: int = 0
    """resourceVersion of what was observed; a status is written over this version and no other. 0: not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCondition:
    """One entry of a batch/v1 Job's `status.conditions`."""

    type: str
    """Complete, Failed, FailureTarget, SuccessCriteriaMet, ..."""
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildJob:
    """The batch/v1 Job of a training attempt."""

    name: str
    uid: str
    stage: Stage
    attempt: int
    """Label `finetune-operator.io/attempt`, from 1."""
    suspended: bool = False
    """`spec.suspend`: a queue has not admitted it, or takes its place back."""
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    conditions: tuple[JobCondition, ...] = ()
    start_time: datetime | None = None
    deletion_timestamp: datetime | None = None

    def condition(self, kind: str) -> JobCondition | None:
        """Return the condition of that type if it is true."""
        return next((one for one in self.conditions if one.type == kind and one.status == "True"), None)

    @property
    def is_complete(self) -> bool:
        """Whether Kubernetes says that the Job succeeded."""
        return self.condition("Complete") is not None

    @property
    def failure(self) -> JobCondition | None:
        """The condition that says that the Job failed, or is about to: its pods are being ended."""
        return self.condition("Failed") or self.condition("FailureTarget")

    @property
    def is_finished(self) -> bool:
        """Whether its outcome is settled; Kubernetes starts no further pod."""
        return self.is_complete or self.failure is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Terminated:
    """How the container `trainer` ended (`containerStatuses[].state.terminated`)."""

    exit_code: int
    reason: str = ""
    """Completed, Error, OOMKilled, ContainerStatusUnknown, StartError, ..."""
    message: str = ""
    """Text of the termination message: TerminationMessage as JSON if the stage could write it."""
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildPod:
    """A pod of a training attempt, or the pod that is a whole stage."""

    name: str
    job: str
    """Name of its Job (label `batch.kubernetes.io/job-name`); of a stage's pod, its own."""
    stage: Stage
    attempt: int
    """Label `finetune-operator.io/attempt`: attempt of the training stage, try of the other stages; from 1."""
    uid: str = ""
    index: int = 0
    """Label `batch.kubernetes.io/job-completion-index`; 0 where there is none."""
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] = "Pending"
    node: str = ""
    """`spec.nodeName`."""
    start_time: datetime | None = None
    """`status.startTime`: when its node took it on."""
    unschedulable: str = ""
    """Message of the condition PodScheduled while it is False; the scheduler's own words."""
    waiting_reason: str = ""
    """`state.waiting.reason` of the container `trainer`: ContainerCreating, ImagePullBackOff, ..."""
    waiting_message: str = ""
    terminated: Terminated | None = None
    reason: str = ""
    """`status.reason` of the pod itself: Evicted, NodeLost, UnexpectedAdmissionError, ..."""
    message: str = ""
    """`status.message` of the pod itself."""
    disruption: str = ""
    """Reason or message of the condition DisruptionTarget while it is True; empty without it."""
    deletion_timestamp: datetime | None = None
    """When the pod is due to be gone: the time of the deletion plus its grace period."""

    @property
    def is_whole_stage(self) -> bool:
        """Whether it is the pod of prepare or export, which belongs to no Job."""
        return self.job == self.name

    @property
    def is_terminal(self) -> bool:
        """Whether its containers have ended for good; the pod may stay for its log."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedWrite:
    """A child whose newest creation the API server refused (4xx); forgotten once it is created."""

    kind: str
    name: str
    code: int
    """HTTP status."""
    message: str
    """`message` of the API server's Status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything a decision about one FineTuneJob rests on."""

    job: FineTuneJob
    settings: PodSettings
    jobs: tuple[ChildJob, ...] = ()
    """Every child Job in view. A list of Jobs must be read before the list of Pods it is paired with."""
    pods: tuple[ChildPod, ...] = ()
    sample: ProgressSample | None = None
    """Newest progress sample that was accepted."""
    refused: tuple[RefusedWrite, ...] = ()
    listening_since: datetime | None = None
    """Since when this replica takes samples: silence before that tells nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """What to delete, with its uid as the precondition: a Job after its pods, a pod, or the FineTuneJob itself."""

    kind: Literal["Job", "Pod", "FineTuneJob"]
    name: str
    uid: str
    force: bool = False
    """Remove a pod at once: its node does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A Kubernetes Event about the FineTuneJob."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do, always in this order: status (if it differs), deletes, children in order, events.

    The status goes first so that a number of an attempt is on record before anything carries it; a crash in between
    repeats nothing, since the next pass plans the same children again. Events go last and only together with a
    status that was written.
    """

    status: FineTuneJobStatus
    deletes: tuple[Delete, ...] = ()
    children: tuple[dict[str, Any], ...] = ()
    """A Job or pod that is not there yet, created once and never changed, after what it needs, which may be there."""
    probes: tuple[dict[str, Any], ...] = ()
    """Pods to ask the API server about without creating them: its refusal is the answer."""
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds after which to look again though nothing happened."""


def parse_status(raw: Mapping[str, Any] | None) -> FineTuneJobStatus:
    """Read the `status` of an object; fields that another release wrote and this one does not know are dropped.

    Raises pydantic.ValidationError when a known field holds what it cannot hold.
    """
    return FineTuneJobStatus.model_validate(raw or {}, extra="ignore")
