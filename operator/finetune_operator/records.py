"""From the API server's JSON to slim records: what a decision needs, and nothing else of a pod's 10 kB.

Nothing here can fail on an object that the API server sends: event handlers call it, and an error there would lose
the event. Times that are missing become None, labels that are missing become empty.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.reasons import Phase
from finetune_api.stage import Stage
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, Kind
from finetune_operator.manifests.names import ATTEMPT_LABEL, JOB_LABEL, QUEUE_LABELS, STAGE_LABEL
from finetune_operator.manifests.pod import CONTAINER
from finetune_operator.model import ChildJob, ChildPod, JobCondition, Terminated
from finetune_operator.workqueue import Key

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

_TERMINAL_PHASES = frozenset(phase.value for phase in Phase if phase.is_terminal)
_STAGES = frozenset(stage.value for stage in Stage)


@dataclass(frozen=True, slots=True)
class RawJob:
    """A FineTuneJob whose spec and status are still text, which takes a fifth of the memory: most of thousands of
    jobs have ended, and nobody looks at them again.
    """

    generation: int
    deleting: bool
    phase: str
    """`status.phase`, or Pending where no status was written yet."""
    expires: bool
    """Whether `spec.ttlSecondsAfterFinished` is set."""
    spec_text: str
    status_text: str
    """Empty where no status was written yet."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those that name a queue."""

    @property
    def spec(self) -> dict[str, Any]:
        """The spec, parsed with each call."""
        spec: dict[str, Any] = json.loads(self.spec_text)
        return spec

    @property
    def status(self) -> dict[str, Any]:
        """The status, parsed with each call."""
        status: dict[str, Any] = json.loads(self.status_text or "{}")
        return status

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self.phase in _TERMINAL_PHASES


Record = RawJob | ChildJob | ChildPod


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in the store."""

    key: Key
    """The FineTuneJob it is, or belongs to."""
    name: str
    uid: str
    version: int
    """resourceVersion: grows with each change of an object."""
    created: str
    """creationTimestamp, as text: RFC 3339 in UTC sorts as it is."""
    owner_uid: str
    """uid of the controlling owner; empty without one."""
    record: Record


def entry_of(kind: Kind, raw: Mapping[str, Any]) -> Entry | None:
    """Return the store's entry for an object, None for a child that bears no label of ours."""
    meta = raw["metadata"]
    name = str(meta["name"])
    labels = meta.get("labels") or {}
    owner = name if kind is FINE_TUNE_JOB else labels.get(JOB_LABEL)
    if not owner or (kind is not FINE_TUNE_JOB and labels.get(STAGE_LABEL) not in _STAGES):
        return None
    return Entry(
        key=Key(str(meta["namespace"]), owner),
        name=name,
        uid=str(meta["uid"]),
        version=int(meta["resourceVersion"]),
        created=str(meta.get("creationTimestamp") or ""),
        owner_uid=_controller(meta),
        record=_record(kind, raw),
    )


def has_ended(record: Record) -> bool:
    """Whether a FineTuneJob has ended for good; a child is none."""
    return isinstance(record, RawJob) and record.is_terminal


def is_finished(record: Record) -> bool:
    """Whether a child has ended, so that a job that has ended too has no more business with it."""
    if isinstance(record, ChildJob):
        return record.is_complete or record.condition("Failed") is not None
    return isinstance(record, ChildPod) and record.is_terminal


def _record(kind: Kind, raw: Mapping[str, Any]) -> Record:
    if kind is FINE_TUNE_JOB:
        meta = raw["metadata"]
        spec, status = raw.get("spec") or {}, raw.get("status") or {}
        return RawJob(
            generation=int(meta.get("generation") or 0),
            deleting=bool(meta.get("deletionTimestamp")),
            phase=str(status.get("phase") or Phase.PENDING.value),
            expires=spec.get("ttlSecondsAfterFinished") is not None,
            spec_text=_text(spec),
            status_text=_text(status) if status else "",
            labels={name: text for name, text in (meta.get("labels") or {}).items() if name in QUEUE_LABELS},
        )
    return _child_job(raw) if kind is JOB else _child_pod(raw)


def _text(part: Mapping[str, Any]) -> str:
    return json.dumps(part, separators=(",", ":"))


def _child_job(raw: Mapping[str, Any]) -> ChildJob:
    meta, status = raw["metadata"], raw.get("status") or {}
    return ChildJob(
        name=meta["name"],
        uid=meta["uid"],
        stage=Stage(meta["labels"][STAGE_LABEL]),
        attempt=_number(meta["labels"].get(ATTEMPT_LABEL)),
        suspended=bool((raw.get("spec") or {}).get("suspend")),
        active=status.get("active") or 0,
        succeeded=status.get("succeeded") or 0,
        failed=status.get("failed") or 0,
        conditions=tuple(
            JobCondition(
                type=one["type"], status=one["status"], reason=one.get("reason", ""), message=one.get("message", "")
            )
            for one in status.get("conditions") or ()
        ),
        start_time=_time(status.get("startTime")),
        deletion_timestamp=_time(meta.get("deletionTimestamp")),
    )


def _child_pod(raw: Mapping[str, Any]) -> ChildPod:
    meta, status = raw["metadata"], raw.get("status") or {}
    labels = meta["labels"]
    conditions = status.get("conditions") or ()
    state = _container_state(status.get("containerStatuses") or ())
    waiting = state.get("waiting") or {}
    return ChildPod(
        name=meta["name"],
        uid=meta["uid"],
        job=labels.get(JOB_NAME_LABEL, meta["name"]),
        stage=Stage(labels[STAGE_LABEL]),
        attempt=_number(labels.get(ATTEMPT_LABEL)),
        index=_number(labels.get(INDEX_LABEL)),
        phase=status.get("phase") or "Pending",
        node=(raw.get("spec") or {}).get("nodeName") or "",
        start_time=_time(status.get("startTime")),
        unschedulable=_condition_text(conditions, "PodScheduled", "False"),
        waiting_reason=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        terminated=_terminated(state.get("terminated")),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        disruption=_condition_text(conditions, "DisruptionTarget", "True"),
        deletion_timestamp=_time(meta.get("deletionTimestamp")),
    )


def _container_state(statuses: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((one.get("state") or {} for one in statuses if one.get("name") == CONTAINER), {})


def _terminated(state: Mapping[str, Any] | None) -> Terminated | None:
    if not state:
        return None
    return Terminated(
        exit_code=state.get("exitCode") or 0,
        reason=state.get("reason") or "",
        message=state.get("message") or "",
        finished_at=_time(state.get("finishedAt")),
    )


def _condition_text(conditions: Iterable[Mapping[str, Any]], kind: str, status: str) -> str:
    for one in conditions:
        if one.get("type") == kind and one.get("status") == status:
            return str(one.get("message") or one.get("reason") or kind)
    return ""


def _controller(meta: Mapping[str, Any]) -> str:
    owners = meta.get("ownerReferences") or ()
    return next((str(one["uid"]) for one in owners if one.get("controller")), "")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
