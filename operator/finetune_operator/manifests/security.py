"""Security contexts: what Pod Security `restricted` asks of every pod and a bit more, and what an admin may lift.

Only training pods are ever lifted. Capabilities, and the devices of a privileged pod, are of use to processes of root
alone, because the kernel takes them from any other user; so such a pod runs as user 0, its group stays.
"""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint

USER = 65532
ROOT = {"runAsUser": 0, "runAsNonRoot": False}


def pod_security() -> dict[str, Any]:
    """Return the pod's security context."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(blueprint: Blueprint) -> dict[str, Any]:
    """Return the container's security context."""
    template = blueprint.spec.pod_template
    context: dict[str, Any] = {"readOnlyRootFilesystem": True}
    if blueprint.is_training and template.privileged:
        return {**context, **ROOT, "privileged": True}
    added = template.capabilities if blueprint.is_training else []
    if not added:
        return {**context, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {**context, **ROOT, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], "add": added}}


def build_network(blueprint: Blueprint) -> dict[str, Any]:
    """Return the fields of the pod spec for the node's own network, if it is asked for; DNS goes on as in a pod's."""
    if not blueprint.on_host_network:
        return {}
    return {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
