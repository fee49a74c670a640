"""Names and labels of the children: deterministic, so that planning the same child twice creates it once."""

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.stage import Stage
from finetune_operator.model import FineTuneJob

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "finetune-operator"
JOB_LABEL = f"{GROUP}/job"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
QUEUE_NAME_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_LABELS = frozenset({QUEUE_NAME_LABEL, "kueue.x-k8s.io/priority-class"})
"""Labels of a FineTuneJob that its training Jobs bear too: Kueue admits Jobs that name a queue."""


def is_reserved_label(key: str) -> bool:
    """Whether a label tells the operator or the Job controller whose a pod is; a user may not set it."""
    return key == MANAGED_BY_LABEL or key.startswith((f"{GROUP}/", "batch.kubernetes.io/"))


def child_name(job: str, stage: Stage, attempt: int) -> str:
    """Return the name of a stage's child: Job `<job>-a<N>`, or pod `<job>-<stage>`, later `<job>-<stage>-<N>`."""
    if stage is Stage.TRAIN:
        return f"{job}-a{attempt}"
    return f"{job}-{stage.value}" if attempt == 1 else f"{job}-{stage.value}-{attempt}"


def network_policy_name(job: str, digest: str) -> str:
    """Return the name of the NetworkPolicy of the job's pods; the digest is of its content."""
    return f"{job}-pods-{digest}"


def job_labels(job: str) -> dict[str, str]:
    """Labels of every child of a FineTuneJob."""
    return {MANAGED_BY_LABEL: MANAGED_BY, JOB_LABEL: job}


def stage_labels(job: str, stage: Stage, attempt: int) -> dict[str, str]:
    """Labels of one stage's Job and pods."""
    return {**job_labels(job), STAGE_LABEL: stage.value, ATTEMPT_LABEL: str(attempt)}


def owner_reference(job: FineTuneJob) -> dict[str, object]:
    """Return the reference by which Kubernetes deletes a child together with its FineTuneJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
