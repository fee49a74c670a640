"""Policy: activeDeadlineSeconds, the longest a job may take.

The clock begins with the job and stands still while the job is queued or suspended: `status.activeSince` is moved on
by that time when it goes on. At the deadline the pods are told to stop, which lets them commit a last checkpoint.
"""

from datetime import datetime, timedelta

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator.reconcile.failure import fail
from finetune_operator.reconcile.scene import Scene, Step

IDLE = frozenset({Phase.QUEUED, Phase.SUSPENDED})
"""Phases in which the clock stands still."""


def active_since(old: FineTuneJobStatus, phase: Phase, now: datetime) -> datetime:
    """Return where the clock begins once the job is in `phase`."""
    since = old.active_since or now
    if old.phase in IDLE and phase not in IDLE and old.phase_time:
        return since + (now - old.phase_time)
    return since


def seconds_left(scene: Scene) -> float | None:
    """Return the seconds until the deadline, None without one or while the clock stands still."""
    limit = scene.spec.active_deadline_seconds
    if limit is None or scene.status.phase in IDLE:
        return None
    return scene.seconds_until((scene.status.active_since or scene.now) + timedelta(seconds=limit))


def exceed(scene: Scene) -> Step:
    """End a job whose time is over."""
    last = scene.status.last_checkpoint
    kept = f"; its newest checkpoint is step {last.step} at {last.uri}" if last else ""
    message = f"the job took longer than {scene.spec.active_deadline_seconds} s (spec.activeDeadlineSeconds){kept}"
    return fail(scene.observed, scene.status, reason=Reason.ACTIVE_DEADLINE_EXCEEDED, message=message)
