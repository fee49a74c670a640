"""A step becomes a plan here, and only here: phase, times, conditions and the Event of a change of phase."""

from datetime import datetime
from typing import Any

from finetune_api.reasons import Phase, Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_operator.model import Event, Observed, Plan
from finetune_operator.reconcile.conditions import derive_conditions
from finetune_operator.reconcile.deadline import active_since
from finetune_operator.reconcile.scene import Step
from finetune_operator.reconcile.usage import account

MESSAGE_LIMIT = 4096
EVENT_LIMIT = 1000
"""Characters that the API server takes of an Event's note, less some for encoding."""
WARNINGS = frozenset({Phase.FAILED, Phase.RESTARTING})


def close(
    observed: Observed,
    status: FineTuneJobStatus,
    *,
    step: Step,
    now: datetime,
    spec: FineTuneJobSpec | None = None,
) -> Plan:
    """Return the plan of a step; `status` is the job's with all that the pods told merged in.

    `spec` is None when it cannot be read.
    """
    old = observed.job.status
    fields: dict[str, Any] = {
        "active_since": active_since(old, step.phase, now),
        **step.changes,
        "phase": step.phase,
        "reason": step.reason,
        "message": clip(step.message, MESSAGE_LIMIT),
        "observed_generation": observed.job.generation,
        "start_time": old.start_time or now,
        "phase_time": old.phase_time if old.phase_time and step.phase is old.phase else now,
        "completion_time": now if step.phase.is_terminal else None,
    }
    new = status.model_copy(update=fields)
    conditions = derive_conditions(observed, new, cause=step.cause or step.reason, now=now)
    new = new.model_copy(update={"conditions": conditions})
    if spec and new != old:  # usage alone is no reason for a write
        new = new.model_copy(update={"usage": account(observed, old, new, spec=spec, now=now)})
    return Plan(
        status=new,
        deletes=step.deletes,
        children=step.children,
        probes=step.probes,
        events=_events(old, step),
        requeue_after=step.requeue_after,
    )


def clip(text: str, limit: int) -> str:
    """Return the text, cut to `limit` characters with an ellipsis in its place."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _events(old: FineTuneJobStatus, step: Step) -> tuple[Event, ...]:
    if step.phase is old.phase:
        return ()
    reason = step.cause if step.cause and step.phase is Phase.RESTARTING else step.reason
    reason = Reason.RESUMED if old.phase is Phase.SUSPENDED and not step.phase.is_terminal else reason
    message = clip(step.message, EVENT_LIMIT)
    return (Event(type="Warning" if step.phase in WARNINGS else "Normal", reason=reason, message=message),)
