"""Where the pods of a stage may run.

The pods of an attempt go to distinct nodes. That is a wish, unless each pod takes a whole node: with 8 GPUs or more,
as most GPU servers have, or on the node's own network, where two of them would meet on the same port. An
`affinity.podAntiAffinity` in the pod template, even an empty one, takes the place of this rule.
"""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.resources import gpus_per_pod

GPUS_OF_A_NODE = 8
NODE = "kubernetes.io/hostname"


def build_placement(blueprint: Blueprint) -> dict[str, Any]:
    """Return the fields of the pod spec that decide where it runs; those that say nothing are left out."""
    template = blueprint.spec.pod_template
    fields: dict[str, Any] = {
        "nodeSelector": template.node_selector,
        "tolerations": [toleration.to_wire() for toleration in template.tolerations],
        "affinity": {**_distinct_nodes(blueprint), **template.affinity},
        "topologySpreadConstraints": _spread(blueprint),
        "priorityClassName": template.priority_class_name,
        "schedulerName": template.scheduler_name,
        "serviceAccountName": template.service_account_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": [secret.to_wire() for secret in template.image_pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}


def takes_whole_node(blueprint: Blueprint) -> bool:
    """Whether no second pod of the attempt fits on the node of the first."""
    if not blueprint.is_training:
        return False
    return blueprint.on_host_network or sum(gpus_per_pod(blueprint.spec).values()) >= GPUS_OF_A_NODE


def _distinct_nodes(blueprint: Blueprint) -> dict[str, Any]:
    if blueprint.num_pods == 1:
        return {}
    term = {"labelSelector": {"matchLabels": blueprint.labels}, "topologyKey": NODE}
    if takes_whole_node(blueprint):
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    wish = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def _spread(blueprint: Blueprint) -> list[dict[str, Any]]:
    if not blueprint.is_training:
        return []
    attempt = {"labelSelector": {"matchLabels": blueprint.labels}}
    return [{**one.to_wire(), **attempt} for one in blueprint.spec.pod_template.topology_spread_constraints]
