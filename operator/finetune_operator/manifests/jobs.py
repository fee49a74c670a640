"""The batch/v1 Job of a training attempt: one try, never retried by Kubernetes itself.

A lost rank ends the whole training group, so restarts are ours: the next attempt is another Job. The failure policy
makes any failed pod end its Job at once, and makes Kubernetes say which exit code or disruption it was, for the case
that the pod is gone before anybody looks. With the label of a queue the Job is created suspended: the queue owns
`suspend` from then on.
"""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import QUEUE_LABELS, QUEUE_NAME_LABEL, owner_reference
from finetune_operator.manifests.pod import CONTAINER, build_pod_template

FAILURE_POLICY = {
    "rules": [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}},
    ]
}


def build_train_job(blueprint: Blueprint) -> dict[str, Any]:
    """Return the Job of an attempt, with a pod for each node."""
    queue = {name: text for name, text in blueprint.job.labels.items() if name in QUEUE_LABELS}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": blueprint.name,
            "namespace": blueprint.job.namespace,
            "labels": {**blueprint.labels, **queue},
            "ownerReferences": [owner_reference(blueprint.job)],
        },
        "spec": {
            "completions": blueprint.num_pods,
            "parallelism": blueprint.num_pods,
            "completionMode": "Indexed",
            "suspend": QUEUE_NAME_LABEL in queue,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": FAILURE_POLICY,
            "template": build_pod_template(blueprint),
        },
    }
