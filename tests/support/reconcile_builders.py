"""Builders with defaults for the operator's records: a test names only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.reasons import Phase, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import ProgressSample, Stage, TerminationMessage
from finetune_api.status import CheckpointRef, FineTuneJobStatus, Progress, Restarts
from finetune_operator.manifests import Blueprint, child_name
from finetune_operator.model import (
    ChildJob,
    ChildPod,
    FineTuneJob,
    JobCondition,
    Observed,
    Plan,
    PodSettings,
    RefusedWrite,
    Terminated,
)
from finetune_operator.reconcile.scene import Scene

STAGES = {
    Phase.PENDING: Stage.PREPARE,
    Phase.PREPARING: Stage.PREPARE,
    Phase.EXPORTING: Stage.EXPORT,
    Phase.SUCCEEDED: Stage.EXPORT,
}
T0 = datetime(2026, 11, 23, 9, 0, 0, tzinfo=UTC)
SETTINGS = PodSettings(
    trainer_image="registry.example/trainer:1", progress_url="https://op.ml.svc:8443", progress_ca="PEM"
)


def at(seconds: float) -> datetime:
    """The moment so many seconds after T0."""
    return T0 + timedelta(seconds=seconds)


def spec(**changes: Any) -> dict[str, Any]:
    """A valid spec on two nodes; a dict given for a block is merged into it."""
    blocks: dict[str, Any] = {
        "model": {"uri": "s3://models/tiny/"},
        "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
        "training": {"maxSteps": 100, "globalBatchSize": 8},
        "distributed": {"numNodes": 2, "device": "cpu"},
        "checkpoint": {"uri": "s3://runs/bot/"},
        "output": {"uri": "s3://models/bot/"},
    }
    for name, value in changes.items():
        blocks[name] = {**blocks.get(name, {}), **value} if isinstance(value, dict) else value
    return blocks


def parsed(**changes: Any) -> FineTuneJobSpec:
    """The spec as a record."""
    return FineTuneJobSpec.model_validate(spec(**changes))


def job(status: FineTuneJobStatus | None = None, **changes: Any) -> FineTuneJob:
    """A FineTuneJob `bot`; `changes` are fields of the record."""
    record = FineTuneJob(name="bot", namespace="ml", uid="uid-1", generation=1, spec=spec())
    return replace(record, status=status or FineTuneJobStatus(), **changes)


def status(phase: Phase = Phase.RUNNING, **changes: Any) -> FineTuneJobStatus:
    """A status in a phase since T0; training phases are attempt 1 unless told otherwise."""
    attempt = changes.get("attempt", 0 if phase in (Phase.PENDING, Phase.PREPARING) else 1)
    reason = Reason(phase.value) if phase.value in set(Reason) else None
    stage = STAGES.get(phase, Stage.TRAIN if attempt else Stage.PREPARE)
    fields = {"phase": phase, "attempt": attempt, "stage": stage.value, "reason": reason, "run_id": "uid-1"}
    times = {"start_time": T0, "phase_time": T0, "active_since": T0}
    return FineTuneJobStatus(**{**fields, **times, **changes})


def child(attempt: int = 1, *, ended: str = "", **changes: Any) -> ChildJob:
    """The Job of an attempt; `ended` is the type of a condition that is true, with an optional `: message`."""
    name = child_name("bot", Stage.TRAIN, attempt)
    kind, _, message = ended.partition(": ")
    conditions = (JobCondition(type=kind, status="True", message=message),) if kind else ()
    record = ChildJob(name=name, uid=f"uid-{name}", stage=Stage.TRAIN, attempt=attempt, conditions=conditions)
    return replace(record, **changes)


def pod(stage: Stage = Stage.TRAIN, attempt: int = 1, *, index: int = 0, **changes: Any) -> ChildPod:
    """A pod of an attempt, or of another stage: pending without a node unless told otherwise."""
    owner = child_name("bot", stage, attempt)
    name = f"{owner}-{index}" if stage is Stage.TRAIN else owner
    return replace(
        ChildPod(name=name, job=owner, stage=stage, attempt=attempt, uid=f"uid-{name}", index=index), **changes
    )


def running(stage: Stage = Stage.TRAIN, attempt: int = 1, *, index: int = 0, **changes: Any) -> ChildPod:
    """A running pod on node n<index>."""
    return pod(stage, attempt, index=index, phase="Running", node=f"n{index}", **changes)


def ended(
    code: int,
    stage: Stage = Stage.TRAIN,
    attempt: int = 1,
    *,
    index: int = 0,
    after: float = 10,
    told: Any = None,
    **changes: Any,
) -> ChildPod:
    """A pod that ended with an exit code so many seconds after T0; `told` is its TerminationMessage or raw text."""
    reason = (changes.pop("oom", None) and "OOMKilled") or ("Completed" if code == 0 else "Error")
    text = (
        told.model_dump_json(by_alias=True, exclude_none=True) if isinstance(told, TerminationMessage) else told or ""
    )
    end = Terminated(exit_code=code, reason=reason, message=text, finished_at=at(after))
    phase = "Succeeded" if code == 0 else "Failed"
    return pod(stage, attempt, index=index, phase=phase, node=f"n{index}", terminated=end, **changes)


def said(reason: Reason, message: str = "", **parts: Any) -> TerminationMessage:
    """A termination message."""
    return TerminationMessage(reason=reason, message=message, **parts)


def sample(step: int, *, attempt: int = 1, total: int = 100, **changes: Any) -> ProgressSample:
    """A progress sample at a step."""
    return ProgressSample(attempt=attempt, progress=progress(step, total=total, **changes))


def progress(step: int, *, total: int = 100, **changes: Any) -> Progress:
    """Progress at a step."""
    return Progress(step=step, total_steps=total, **changes)


def checkpoint(step: int) -> CheckpointRef:
    """A commit."""
    return CheckpointRef(uri=f"s3://runs/bot/uid-1/commits/{step:08d}.json", step=step, time=at(step), size_bytes=1)


def restarts(total: int = 0, counted: int | None = None, **changes: int) -> Restarts:
    """Restarts, all of them counted unless told otherwise."""
    return Restarts(total=total, counted=total if counted is None else counted, **changes)


def refused(
    kind: str = "Job", name: str = "bot-a1", code: int = 403, message: str = "exceeded quota"
) -> RefusedWrite:
    """A refused creation."""
    return RefusedWrite(kind=kind, name=name, code=code, message=message)


def observed(*records: Any, of: FineTuneJob | FineTuneJobStatus | None = None, **changes: Any) -> Observed:
    """An observation of the job (or of one with that status) and of the given children, samples and refusals."""
    about = of if isinstance(of, FineTuneJob) else job(of)
    samples = [one for one in records if isinstance(one, ProgressSample)]
    return Observed(
        job=about,
        settings=changes.pop("settings", SETTINGS),
        jobs=tuple(one for one in records if isinstance(one, ChildJob)),
        pods=tuple(one for one in records if isinstance(one, ChildPod)),
        sample=samples[0] if samples else None,
        refused=tuple(one for one in records if isinstance(one, RefusedWrite)),
        **changes,
    )


def scene(*records: Any, of: FineTuneJob | FineTuneJobStatus | None = None, now: float = 60, **changes: Any) -> Scene:
    """A scene of the job as a policy gets it; `changes` are blocks of the spec."""
    seen = observed(*records, of=of)
    parsed_spec = parsed(**changes) if changes else FineTuneJobSpec.model_validate(seen.job.spec)
    return Scene(observed=seen, spec=parsed_spec, status=seen.job.status, now=at(now))


def blueprint(
    stage: Stage = Stage.TRAIN, attempt: int = 1, *, settings: PodSettings = SETTINGS, **changes: Any
) -> Blueprint:
    """What a stage's Job is built from; `changes` are blocks of the spec."""
    about = job(spec=spec(**changes))
    return Blueprint(
        job=about, spec=parsed(**changes), settings=settings, stage=stage, attempt=attempt, run_id=about.uid
    )


def created(plan: Plan) -> list[str]:
    """Kind and name of the plan's children."""
    return [f"{one['kind']}/{one['metadata']['name']}" for one in plan.children]
