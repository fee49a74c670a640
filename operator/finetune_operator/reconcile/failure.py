"""Policy: the end without a result. Nothing is left running, and what has ended stays for its log."""

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator.model import Delete, Observed
from finetune_operator.reconcile.facts import halted
from finetune_operator.reconcile.scene import Step


def fail(
    observed: Observed, status: FineTuneJobStatus, *, reason: Reason, message: str, cause: Reason | None = None
) -> Step:
    """End the job as Failed; `cause` is the last failure where the reason is only that there were too many."""
    return Step(
        phase=Phase.FAILED,
        reason=reason,
        message=message,
        cause=cause,
        changes={"progress": halted(status.progress)},
        deletes=unfinished(observed),
    )


def unfinished(observed: Observed) -> tuple[Delete, ...]:
    """Return the Jobs (with their pods) and stages' pods to delete, so that none of them runs or waits on.

    A Job that failed or is about to ends its pods by itself; deleting it would take the logs of those that ended.
    """
    jobs = tuple(
        Delete(kind="Job", name=child.name, uid=child.uid)
        for child in observed.jobs
        if not child.is_finished and child.deletion_timestamp is None
    )
    pods = tuple(
        Delete(kind="Pod", name=pod.name, uid=pod.uid)
        for pod in observed.pods
        if pod.is_whole_stage and not pod.is_terminal and pod.deletion_timestamp is None
    )
    return jobs + pods
