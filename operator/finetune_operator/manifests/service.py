"""The headless Service that gives the pods of a training attempt their host names."""

from typing import Any

from finetune_api.stage import RENDEZVOUS_PORT, Stage
from finetune_operator.manifests.names import STAGE_LABEL, job_labels, owner_reference, service_name
from finetune_operator.model import FineTuneJob


def build_rendezvous_service(job: FineTuneJob) -> dict[str, Any]:
    """Return the Service; it publishes pods that are not ready, since ranks meet before anything is."""
    labels = job_labels(job.name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(job.name),
            "namespace": job.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {**labels, STAGE_LABEL: Stage.TRAIN.value},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT}],
        },
    }
