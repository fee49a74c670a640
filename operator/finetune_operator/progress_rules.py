"""Which progress sample is believed: the rules, without any I/O.

The pod named by the token must be the one pod that may speak: in the job's namespace, below the job by owner uid,
in the training stage, with completion index 0, of the job's current attempt. A pod of an earlier attempt that still
runs somewhere is told so (409) and changes nothing.
"""

from dataclasses import dataclass
from http import HTTPStatus

from finetune_api.stage import ProgressSample, Stage
from finetune_operator.kinds import JOB, POD
from finetune_operator.model import ChildJob, ChildPod
from finetune_operator.records import Entry, RawJob
from finetune_operator.store import Store
from finetune_operator.tokens import PodIdentity
from finetune_operator.workqueue import Key


@dataclass(frozen=True, slots=True)
class Verdict:
    """An HTTP status and, for a refusal, its cause: one word for the metric, one sentence for the trainer's log."""

    status: HTTPStatus
    cause: str = "accepted"
    message: str = ""
    uid: str = ""
    """uid of the job the sample is for."""


def judge_pod(store: Store, key: Key, pod: PodIdentity) -> Verdict:
    """Decide whether the pod may speak for the job."""
    job = store.job(key)
    if job is None or not isinstance(job.record, RawJob):
        return Verdict(HTTPStatus.NOT_FOUND, "unknown_job", f"there is no FineTuneJob {key.namespace}/{key.name}")
    if pod.namespace != key.namespace:
        return _forbidden("foreign_pod", "the token belongs to a pod of another namespace")
    entry = store.get(POD, namespace=pod.namespace, name=pod.name)
    if entry is None or entry.uid != pod.uid or not _is_below(store, entry, job):
        return _forbidden("foreign_pod", "the token does not belong to a pod of this job")
    record = entry.record
    if not isinstance(record, ChildPod) or record.stage is not Stage.TRAIN or record.index != 0:
        return _forbidden("wrong_index", "only the training pod with index 0 reports progress")
    if job.record.is_terminal or record.attempt != _current_attempt(job.record):
        return _stale(f"attempt {record.attempt} is not the current one")
    return Verdict(HTTPStatus.NO_CONTENT, uid=job.uid)


def judge_sample(store: Store, key: Key, *, pod: PodIdentity, sample: ProgressSample) -> Verdict:
    """Decide whether a sample of a pod that may speak is of the attempt that the pod belongs to."""
    entry = store.get(POD, namespace=pod.namespace, name=pod.name)
    if entry is None or not isinstance(entry.record, ChildPod) or entry.record.attempt != sample.attempt:
        return _stale(f"the sample is of attempt {sample.attempt}, the pod is not")
    job = store.job(key)
    return Verdict(HTTPStatus.NO_CONTENT, uid=job.uid if job else "")


def _is_below(store: Store, pod: Entry, job: Entry) -> bool:
    if not isinstance(pod.record, ChildPod) or pod.key != job.key:
        return False
    parent = store.get(JOB, namespace=pod.key.namespace, name=pod.record.job)
    if parent is None or not isinstance(parent.record, ChildJob):
        return False
    return pod.owner_uid == parent.uid and parent.owner_uid == job.uid


def _current_attempt(job: RawJob) -> int:
    attempt = job.status.get("attempt")
    return attempt if isinstance(attempt, int) else 0


def _forbidden(cause: str, message: str) -> Verdict:
    return Verdict(HTTPStatus.FORBIDDEN, cause, message)


def _stale(message: str) -> Verdict:
    return Verdict(HTTPStatus.CONFLICT, "stale_attempt", message)
