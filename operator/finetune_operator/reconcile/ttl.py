"""Policy: ttlSecondsAfterFinished, when a job that has ended is deleted.

The FineTuneJob itself goes, and with it everything it owns. A child with a time to live of its own would vanish
before its parent, which would then look as if it had never run. What is in S3 stays.
"""

from datetime import datetime, timedelta

from finetune_operator.model import Delete, Observed


def seconds_to_live(observed: Observed, now: datetime) -> float | None:
    """Return the seconds until a job that has ended is deleted, None when it stays."""
    ttl, ended = observed.job.spec.get("ttlSecondsAfterFinished"), observed.job.status.completion_time
    if not isinstance(ttl, int) or ended is None:
        return None
    return max(0.0, (ended + timedelta(seconds=ttl) - now).total_seconds())


def expire(observed: Observed) -> Delete:
    """Return the deletion of the job itself."""
    return Delete(kind="FineTuneJob", name=observed.job.name, uid=observed.job.uid)
