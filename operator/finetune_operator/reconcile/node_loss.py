"""Policy: pods whose node does not answer.

A pod on a node that is gone stays in deletion for ever, since only its kubelet can confirm its end. Waiting for a
person would hold the job for hours, so it is removed by force when it is overdue for long. What might still run on
a node that is only cut off can waste its time, but no result: everything an attempt writes to S3 is under its own
name and committed only if nothing stands there.
"""

from datetime import datetime, timedelta

from finetune_operator.model import ChildPod, Delete, Observed
from finetune_operator.reconcile.scene import OVERDUE


def lost_pods(observed: Observed, now: datetime) -> tuple[Delete, ...]:
    """Return the pods to remove by force."""
    due = ((pod, force_at(observed, pod)) for pod in observed.pods)
    return tuple(
        Delete(kind="Pod", name=pod.name, uid=pod.uid, force=True) for pod, moment in due if moment and moment <= now
    )


def seconds_until_lost(observed: Observed, now: datetime) -> float | None:
    """Return when the next pod is to be removed by force, None when no pod is being deleted."""
    moments = [moment for pod in observed.pods if (moment := force_at(observed, pod)) and moment > now]
    return (min(moments) - now).total_seconds() if moments else None


def force_at(observed: Observed, pod: ChildPod) -> datetime | None:
    """Return when a pod that is being deleted is removed by force, if ever.

    Not before it counts as lost: what took it from its node is seen on the pod alone, and decides about the attempt.
    """
    patience = observed.settings.force_delete_after
    if pod.deletion_timestamp is None or patience <= 0:
        return None
    return pod.deletion_timestamp + max(OVERDUE, timedelta(seconds=patience))
