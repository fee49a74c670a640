"""The batch/v1 Job of a stage: one try, never retried by Kubernetes itself.

A lost rank ends the whole training group, so restarts are ours: the next attempt is another Job. The failure policy
makes any failed pod end its Job at once, and makes Kubernetes say which exit code or disruption it was, for the case
that the pod is gone before anybody looks.
"""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import owner_reference
from finetune_operator.manifests.pod import CONTAINER, build_pod_template

FAILURE_POLICY = {
    "rules": [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
    ]
}


def build_job(blueprint: Blueprint) -> dict[str, Any]:
    """Return the Job of a stage: Indexed with a pod per node for training, one pod for prepare and export."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": blueprint.name,
            "namespace": blueprint.job.namespace,
            "labels": blueprint.labels,
            "ownerReferences": [owner_reference(blueprint.job)],
        },
        "spec": {
            "completions": blueprint.num_pods,
            "parallelism": blueprint.num_pods,
            "completionMode": "Indexed" if blueprint.is_training else "NonIndexed",
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": FAILURE_POLICY,
            "template": build_pod_template(blueprint),
        },
    }
