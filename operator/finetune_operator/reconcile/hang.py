"""Policy: a training that makes no step.

A lost peer or a device that does not answer leaves the ranks in a collective for ever, with the pods running well.
The trainer watches itself: each rank dumps its stacks and ends with exit code 78. This policy is for the pod that
cannot even do that. Silence counts from the newest sample of the attempt, and from the moment this replica listens.
"""

from datetime import datetime, timedelta

from finetune_api.reasons import Reason
from finetune_api.stage import HANG_SECONDS, HANG_STEPS
from finetune_operator.reconcile.ending import Action, Verdict
from finetune_operator.reconcile.scene import Scene

LONGEST_SECONDS = 7 * 86_400.0
"""However long a trainer says that its steps are."""
BACKSTOP_SECONDS = 60.0
"""More than the trainer's own limit, so that it speaks first and leaves its stacks in the log."""


def silent_until(scene: Scene) -> datetime | None:
    """Return when silence becomes a hang; None before the attempt has spoken."""
    progress = scene.status.progress
    if progress is None or progress.attempt != scene.attempt or progress.last_update_time is None:
        return None
    heard = max(progress.last_update_time, scene.observed.listening_since or progress.last_update_time)
    limit = min(max(HANG_SECONDS, HANG_STEPS * (progress.median_step_seconds or 0.0)), LONGEST_SECONDS)
    return heard + timedelta(seconds=limit + BACKSTOP_SECONDS)


def hung(scene: Scene) -> Verdict:
    """Return what the silence means."""
    progress = scene.status.progress
    heard = f"{progress.last_update_time:%H:%M:%S} UTC at step {progress.step}" if progress else "its start"
    message = f"{scene.label} has told nothing since {heard}; its pods are ended"
    return Verdict(Action.RETRY, Reason.HUNG, message)
