"""What the pods told: progress samples and termination messages, merged into the status.

Numbers of an older attempt are ignored, and within an attempt no step and no checkpoint goes back. A termination
message is the last word, so it wins over a sample of the same step.
"""

from pydantic import ValidationError

from finetune_api.reasons import Phase
from finetune_api.stage import ProgressSample, Stage, TerminationMessage
from finetune_api.status import FineTuneJobStatus, Progress
from finetune_operator.manifests import child_name
from finetune_operator.model import ChildPod, Observed
from finetune_operator.reconcile.scene import attempt_of, pods_of, stage_of

HALTED = frozenset({Phase.RESTARTING, Phase.SUSPENDED})
"""Phases in which nothing computes any more, though a pod may have a last word to say."""
PARTS = ("plan", "data", "last_checkpoint", "best_checkpoint", "evaluation", "output")
CHECKPOINTS = ("last_checkpoint", "best_checkpoint")
TEXTS = frozenset({"percent_text", "step_text"})
"""Fields that Progress derives from others."""


def with_facts(observed: Observed) -> FineTuneJobStatus:
    """Return the job's status with the newest sample and the messages of the current stage's pods merged in."""
    status = observed.job.status
    if observed.sample and stage_of(status) is Stage.TRAIN and observed.sample.attempt == status.attempt:
        status = _merge(status, observed.sample)
    name = child_name(observed.job.name, stage_of(status), attempt_of(status))
    for pod in pods_of(observed, name)[:1]:
        message = last_word(pod) if pod.index == 0 else None
        status = _merge(status, message) if message else status
    if status.phase in HALTED:
        return status.model_copy(update={"progress": halted(status.progress)})
    return status


def last_word(pod: ChildPod) -> TerminationMessage | None:
    """Return a pod's termination message, or None when it could not write one.

    Keys of another release are dropped: a job may name an image that is newer or older than the operator.
    """
    if pod.terminated is None:
        return None
    try:
        return TerminationMessage.model_validate_json(pod.terminated.message, extra="ignore")
    except ValidationError:
        return None


def halted(progress: Progress | None) -> Progress | None:
    """Return the progress of a training that does not run: how fast and how long is not known any more."""
    if progress is None:
        return None
    unknown = ("estimated_remaining_seconds", "eta", "tokens_per_second", "mfu", "data_wait_share")
    return progress.model_copy(update=dict.fromkeys(unknown))


def format_duration(seconds: int) -> str:
    """Return a duration for people: 45s, 4m10s, 1h05m, 2d03h."""
    minutes, second = divmod(max(0, seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def _merge(status: FineTuneJobStatus, told: ProgressSample | TerminationMessage) -> FineTuneJobStatus:
    ignored = CHECKPOINTS if _is_older(status, told) else ()
    found = {name: getattr(told, name, None) for name in PARTS if name not in ignored}
    changes = {name: value for name, value in found.items() if value is not None}
    if told.progress and not _is_behind(status, told.progress):
        changes["progress"] = _complete(told.progress, status.attempt)
    return status.model_copy(update=changes)


def _is_older(status: FineTuneJobStatus, told: ProgressSample | TerminationMessage) -> bool:
    """Whether the attempt has told of a newer commit: the last sample stays when the last word is gone with its pod.

    Another attempt may begin with an older one, where the newest was damaged.
    """
    is_of_attempt = status.progress is not None and status.progress.attempt == status.attempt
    known, commit = status.last_checkpoint, told.last_checkpoint
    return is_of_attempt and known is not None and commit is not None and commit.step < known.step


def _is_behind(status: FineTuneJobStatus, progress: Progress) -> bool:
    known = status.progress
    return known is not None and known.attempt == status.attempt and progress.step < known.step


def _complete(progress: Progress, attempt: int) -> Progress:
    """Fill in what the operator derives, so that it is derived in one place."""
    told = {name: getattr(progress, name) for name in Progress.model_fields if name not in TEXTS}
    left = progress.estimated_remaining_seconds
    percent = min(100, 100 * progress.step // progress.total_steps) if progress.total_steps > 0 else 0
    return Progress(
        **{
            **told,
            "attempt": attempt,
            "percent": percent,
            "eta": format_duration(left) if left is not None else None,
        }
    )
