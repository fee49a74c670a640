"""`status.conditions`: each derived anew, with a lastTransitionTime that moves only when its status does."""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from finetune_api.reasons import ConditionType, Phase, Reason
from finetune_api.stage import Stage
from finetune_api.status import Condition, FineTuneJobStatus
from finetune_operator.manifests import child_name
from finetune_operator.model import Observed
from finetune_operator.reconcile.launch import SETTLE_SECONDS
from finetune_operator.reconcile.scene import attempt_of, pods_of, stage_of

STORAGE_REASONS = frozenset(
    {
        Reason.BUCKET_NOT_FOUND,
        Reason.OBJECT_NOT_FOUND,
        Reason.STORAGE_ACCESS_DENIED,
        Reason.STORAGE_UNREACHABLE,
        Reason.STORAGE_FAILED,
    }
)
WAITING_PHASES = frozenset({Phase.PREPARING, Phase.QUEUED, Phase.STARTING, Phase.EXPORTING})


class Finding(NamedTuple):
    """What a condition is to say."""

    status: Literal["True", "False"]
    reason: Reason
    message: str = ""


Findings = dict[ConditionType, Finding]


def derive_conditions(
    observed: Observed, status: FineTuneJobStatus, *, cause: Reason, now: datetime
) -> list[Condition]:
    """Return the conditions of a status whose other fields are final.

    `cause` is why a stage just failed, else the status's own reason. A condition nothing is found for stays.
    """
    findings = {
        **_inputs(observed.job.status, status, cause),
        **_scheduled(observed, status, now),
        **_training(status),
        **_suspended(status),
        **_end(status),
    }
    known = {one.type: one for one in status.conditions}
    for kind, finding in findings.items():
        old = known.get(kind)
        known[kind] = Condition(
            type=kind,
            status=finding.status,
            reason=finding.reason,
            message=finding.message,
            last_transition_time=old.last_transition_time if old and old.status == finding.status else now,
            observed_generation=observed.job.generation,
        )
    return [known[kind] for kind in ConditionType if kind in known]


def _inputs(old: FineTuneJobStatus, new: FineTuneJobStatus, cause: Reason) -> Findings:
    """Valid, StorageReady and DataReady: a stage that failed says no, one that got through says yes."""
    message = new.message or ""
    findings: Findings = {ConditionType.VALID: Finding("True", Reason.ACCEPTED)}
    if stage_of(old) is not stage_of(new) or _speaks(new) or new.phase is Phase.SUCCEEDED:
        findings[ConditionType.STORAGE_READY] = Finding("True", Reason.ACCEPTED)
    if stage_of(new) is not Stage.PREPARE:
        findings[ConditionType.DATA_READY] = Finding("True", Reason.ACCEPTED)
    if cause is Reason.INVALID_SPEC:
        findings[ConditionType.VALID] = Finding("False", cause, message)
    if cause in STORAGE_REASONS:
        findings[ConditionType.STORAGE_READY] = Finding("False", cause, message)
    if cause is Reason.INVALID_DATA:
        findings[ConditionType.DATA_READY] = Finding("False", cause, message)
    return findings


def _speaks(status: FineTuneJobStatus) -> bool:
    """Whether the attempt that runs has reported: it got its model and data from the storage."""
    progress = status.progress
    return status.phase is Phase.RUNNING and progress is not None and progress.attempt == status.attempt


def _scheduled(observed: Observed, status: FineTuneJobStatus, now: datetime) -> Findings:
    """Scheduled: every pod of the current stage has a node.

    A phase begins with no, and while it settles that is left alone: pods that start as usual cost no write of their
    own. Pods that are missing later on change nothing: they are not created yet, or gone. A stage of one pod that was
    too short for a yes gets it when the job ends; of an attempt that failed, Kubernetes has removed the other pods.
    """
    if status.phase is Phase.RUNNING:
        return {ConditionType.SCHEDULED: Finding("True", Reason.RUNNING)}
    ends = status.phase.is_terminal and stage_of(status) is not Stage.TRAIN
    if status.phase not in WAITING_PHASES and not ends:
        return {}
    is_new = observed.job.status.phase is not status.phase
    if not is_new and status.phase_time and now < status.phase_time + timedelta(seconds=SETTLE_SECONDS):
        return {}
    pods = pods_of(observed, child_name(observed.job.name, stage_of(status), attempt_of(status)))
    wanted = (status.nodes or 1) if stage_of(status) is Stage.TRAIN else 1
    reason = status.reason or Reason.STARTING
    if len([pod for pod in pods if pod.node]) >= wanted:
        return {ConditionType.SCHEDULED: Finding("True", reason)}
    if ends or (not is_new and len(pods) < wanted):
        return {}
    return {ConditionType.SCHEDULED: Finding("False", reason, "not every pod has a node")}


def _training(status: FineTuneJobStatus) -> Findings:
    """Running and Checkpointed: from the first attempt on."""
    findings: Findings = {}
    if status.attempt > 0:
        running = status.phase is Phase.RUNNING
        findings[ConditionType.RUNNING] = Finding(
            "True" if running else "False", status.reason or Reason.RUNNING, "" if running else status.message or ""
        )
    if status.last_checkpoint:
        step = status.last_checkpoint.step
        findings[ConditionType.CHECKPOINTED] = Finding("True", Reason.RUNNING, f"step {step} is committed")
    return findings


def _suspended(status: FineTuneJobStatus) -> Findings:
    """Suspended: from the first suspension on."""
    if status.phase is Phase.SUSPENDED:
        return {ConditionType.SUSPENDED: Finding("True", Reason.SUSPENDED, "spec.suspend is set")}
    if any(one.type is ConditionType.SUSPENDED for one in status.conditions):
        return {ConditionType.SUSPENDED: Finding("False", Reason.RESUMED)}
    return {}


def _end(status: FineTuneJobStatus) -> Findings:
    """Succeeded and Failed: only when it is over."""
    if not status.phase.is_terminal or status.reason is None:
        return {}
    done = status.phase is Phase.SUCCEEDED
    said = (status.reason, status.message or "")
    return {
        ConditionType.SUCCEEDED: Finding("True" if done else "False", *said),
        ConditionType.FAILED: Finding("False" if done else "True", *said),
    }
