"""What a contender's jobs look like to the observer: where they are, whose a pod is, and when one has ended."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_api import GROUP, PLURAL, VERSION

Object = dict[str, Any]
BENCH_LABEL = "finetune-bench/job"
"""Label of the plain Jobs and their pods: the name of the job they stand for."""
STAGE = re.compile(r"-[12]$")


@dataclass(frozen=True)
class Kind:
    """One kind of job. `outcome` says Succeeded or Failed for an object that has ended, else nothing."""

    api: str
    plural: str
    pod_label: str
    marks: tuple[bytes, ...]
    """One of these is in the JSON of an object that has ended: it saves parsing all others."""
    outcome: Callable[[Object], str | None]
    job_of: Callable[[Object], str | None] = lambda item: str(item["metadata"]["name"])
    """The name of the job that such an object ends; None for one that is not its last."""

    def collection(self, namespace: str) -> str:
        """Return the path of the collection in a namespace."""
        return f"{self.api}/namespaces/{namespace}/{self.plural}"


def _by_phase(item: Object) -> str | None:
    phase = item.get("status", {}).get("phase")
    return phase if phase in ("Succeeded", "Failed") else None


def _by_condition(item: Object) -> str | None:
    names = {"Complete": "Succeeded", "Succeeded": "Succeeded", "Failed": "Failed"}
    conditions = item.get("status", {}).get("conditions") or []
    return next((names[one["type"]] for one in conditions if one["type"] in names and one["status"] == "True"), None)


def _last_of_three(item: Object) -> str | None:
    return None if STAGE.search(item["metadata"]["name"]) else str(item["metadata"]["labels"][BENCH_LABEL])


JOB_MARKS = (b'"type":"Complete"', b'"type":"Failed"')
PLAIN = Kind("/apis/batch/v1", "jobs", BENCH_LABEL, JOB_MARKS, _by_condition)
KINDS = {
    "FineTuneJob": Kind(
        f"/apis/{GROUP}/{VERSION}",
        PLURAL,
        f"{GROUP}/job",
        (b'"phase":"Succeeded"', b'"phase":"Failed"'),
        _by_phase,
    ),
    "PyTorchJob": Kind(
        "/apis/kubeflow.org/v1",
        "pytorchjobs",
        "training.kubeflow.org/job-name",
        (b'"type":"Succeeded"', b'"type":"Failed"'),
        _by_condition,
    ),
    "Job": PLAIN,
    "ThreeJobs": Kind(PLAIN.api, PLAIN.plural, PLAIN.pod_label, JOB_MARKS, _by_condition, _last_of_three),
}
