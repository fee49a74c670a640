"""What a status that was written adds to the counters: restarts, ends, the time in the phase left, what was used."""

from finetune_api.status import FineTuneJobStatus
from finetune_operator.metrics import Metrics


def count_status(
    metrics: Metrics, *, namespace: str, old: FineTuneJobStatus, new: FineTuneJobStatus, reason: str
) -> None:
    """Count the difference between two statuses of a job; `reason` is that of the new one's Event."""
    more = new.restarts.total - old.restarts.total
    if more > 0:
        metrics.restarts.labels(namespace, reason).inc(more)
    if new.phase.is_terminal and not old.phase.is_terminal:
        metrics.finished.labels(namespace, new.phase.value, reason).inc()
    if new.phase is not old.phase and old.phase_time and new.phase_time:
        seconds = (new.phase_time - old.phase_time).total_seconds()
        metrics.phase_seconds.labels(old.phase.value).observe(max(0.0, seconds))
    _count_usage(metrics, namespace=namespace, old=old, new=new)


def _count_usage(metrics: Metrics, *, namespace: str, old: FineTuneJobStatus, new: FineTuneJobStatus) -> None:
    before, after = old.usage, new.usage
    wasted = after.wasted_seconds - before.wasted_seconds
    gpus = after.gpu_seconds / after.node_seconds if after.node_seconds else 0.0
    for counter, seconds in (
        (metrics.node_seconds, after.node_seconds - before.node_seconds),
        (metrics.gpu_seconds, after.gpu_seconds - before.gpu_seconds),
        (metrics.wasted_node_seconds, wasted),
        (metrics.wasted_gpu_seconds, wasted * gpus),
    ):
        if seconds > 0:
            counter.labels(namespace).inc(seconds)
