"""Policy: what the training pods took and what of it was lost, counted whenever a status is written anyway.

A pod counts from the moment its node takes it on to the end of its container. Times are cut to whole seconds before
they are subtracted, so the parts between any number of counts add up to the whole. What a count cannot see is left
out rather than guessed: the seconds of a pod that ended and vanished between two of them.
"""

from collections.abc import Iterable
from datetime import datetime

from finetune_api.reasons import Phase
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import Stage
from finetune_api.status import FineTuneJobStatus, Usage
from finetune_operator.manifests.resources import gpus_per_pod
from finetune_operator.model import ChildPod, Observed, Prices
from finetune_operator.reconcile.scene import overdue_at

AT_WORK = frozenset({Phase.STARTING, Phase.RUNNING})
GIVEN_UP = frozenset({Phase.RESTARTING, Phase.SUSPENDED, Phase.FAILED})


def account(
    observed: Observed, old: FineTuneJobStatus, new: FineTuneJobStatus, *, spec: FineTuneJobSpec, now: datetime
) -> Usage:
    """Return the usage up to now: that of `old` and what the pods in view took since."""
    before, pods = old.usage, _training_pods(observed)
    if not pods and before.as_of is None:
        return before
    seconds = sum(_seconds(pod, since=before.as_of, until=now) for pod in pods)
    gpus = gpus_per_pod(spec)
    node_seconds = before.node_seconds + seconds
    gpu_seconds = before.gpu_seconds + seconds * sum(gpus.values())
    cost = _cost(gpu_seconds, gpus=gpus, prices=observed.settings.prices)
    return Usage(
        node_seconds=node_seconds,
        gpu_seconds=gpu_seconds,
        wasted_seconds=min(node_seconds, before.wasted_seconds + _lost(pods, old, new, now=now)),
        cost=cost,
        currency=None if cost is None else observed.settings.prices.currency,
        as_of=now,
    )


def _training_pods(observed: Observed) -> tuple[ChildPod, ...]:
    return tuple(pod for pod in observed.pods if pod.stage is Stage.TRAIN and pod.start_time)


def _lost(pods: Iterable[ChildPod], old: FineTuneJobStatus, new: FineTuneJobStatus, *, now: datetime) -> int:
    """Return the seconds whose work is lost now: those since the newest commit, all of an attempt that has none.

    A pod that was told to stop and has not ended yet is about to commit, so it loses nothing, unless the attempt
    failed or its node does not answer.
    """
    if old.phase not in AT_WORK or new.phase not in GIVEN_UP:
        return 0
    failed = new.restarts.counted > old.restarts.counted
    committed = new.last_checkpoint.time if new.last_checkpoint else None
    gone = (pod for pod in pods if pod.attempt == old.attempt and (failed or _cannot_commit(pod, now)))
    return sum(_seconds(pod, since=committed, until=now) for pod in gone)


def _cannot_commit(pod: ChildPod, now: datetime) -> bool:
    overdue = overdue_at(pod)
    return pod.is_terminal or pod.terminated is not None or (overdue is not None and overdue <= now)


def _seconds(pod: ChildPod, *, since: datetime | None, until: datetime) -> int:
    """Return the whole seconds that a node held the pod within the bounds."""
    begin, end = pod.start_time, _end(pod, until)
    if begin is None or end is None:
        return 0
    begin = max(begin, since) if since else begin
    return max(0, int(end.timestamp()) - int(begin.timestamp()))


def _end(pod: ChildPod, until: datetime) -> datetime | None:
    """Return when the pod ended, `until` while it has not; None when it has and nobody wrote down when."""
    if pod.terminated and pod.terminated.finished_at:
        return min(pod.terminated.finished_at, until)
    return None if pod.is_terminal else until


def _cost(gpu_seconds: int, *, gpus: dict[str, int], prices: Prices) -> float | None:
    """Return what the GPUs cost, None when one of them has no price: half a sum would pass for the whole."""
    if not gpus or not gpus.keys() <= prices.gpu_hour.keys():
        return None
    hourly = sum(count * prices.gpu_hour[name] for name, count in gpus.items()) / sum(gpus.values())
    return round(gpu_seconds * hourly / 3600, 6)
