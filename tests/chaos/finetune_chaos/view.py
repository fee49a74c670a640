"""Pods and statuses as the rules look at them."""

from dataclasses import dataclass

from finetune_api.status import FineTuneJobStatus
from finetune_chaos.kube import Object

JOB_LABEL = "finetune-operator.io/job"
STAGE_LABEL = "finetune-operator.io/stage"
ATTEMPT_LABEL = "finetune-operator.io/attempt"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Pod:
    """One pod of a job."""

    name: str
    uid: str
    stage: str
    attempt: int
    index: int
    phase: str
    node: str
    is_leaving: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it may still compute: a pod that is being deleted does until it has ended."""
        return self.phase not in ENDED

    @property
    def group(self) -> str:
        """What it belongs to: `train 2`, `prepare 1`."""
        return f"{self.stage} {self.attempt}"


def read_pod(item: Object) -> Pod:
    """Read a pod of a job."""
    metadata, status = item["metadata"], item.get("status", {})
    labels = metadata.get("labels", {})
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        stage=labels.get(STAGE_LABEL, ""),
        attempt=int(labels.get(ATTEMPT_LABEL, 0)),
        index=int(labels.get(INDEX_LABEL, metadata.get("annotations", {}).get(INDEX_LABEL, 0))),
        phase=status.get("phase", "Pending"),
        node=item["spec"].get("nodeName", ""),
        is_leaving="deletionTimestamp" in metadata,
    )


def owner_of(item: Object) -> str:
    """Return the name of the job that an object belongs to; a FineTuneJob belongs to itself."""
    if item.get("kind") == "FineTuneJob":
        return str(item["metadata"]["name"])
    return str(item["metadata"].get("labels", {}).get(JOB_LABEL, ""))


def read_status(item: Object) -> FineTuneJobStatus:
    """Return the status of a FineTuneJob; one that no operator has seen is Pending."""
    return FineTuneJobStatus.model_validate(item.get("status") or {})
