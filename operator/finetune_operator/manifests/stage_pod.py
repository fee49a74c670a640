"""The bare pod that is a whole stage: prepare and export need one, and no controller above it.

A Job for each would cost the Job controller five writes more and wait for it, whose requests are limited (20 a second
by default), and nothing would be gained: the operator judges the end of a stage and its retries by itself. A pod that
is deleted by hand comes again; both stages begin anew without harm.
"""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import owner_reference
from finetune_operator.manifests.pod import build_pod_template


def build_stage_pod(blueprint: Blueprint) -> dict[str, Any]:
    """Return the pod of prepare or export."""
    template = build_pod_template(blueprint)
    meta = {"name": blueprint.name, "namespace": blueprint.job.namespace}
    owners = {"ownerReferences": [owner_reference(blueprint.job)]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta, **template["metadata"], **owners},
        "spec": template["spec"],
    }
