"""Is the cluster whole: nodes, control plane, operator and S3 server."""

import time

from finetune_chaos.kube import Kube, Object
from finetune_chaos.workload import NAMESPACE
from quickstart.platform import NAMESPACE as OPERATOR_NAMESPACE

DEPLOYMENTS = ((OPERATOR_NAMESPACE, "finetune-operator"), ("kube-system", "coredns"), (NAMESPACE, "s3"))
STATIC = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class UnhealthyError(Exception):
    """The cluster did not come back; the text says what is missing."""


def await_health(kube: Kube, seconds: float) -> float:
    """Wait until the cluster is whole and return the seconds it took. Raises UnhealthyError."""
    start = time.monotonic()
    while missing := ailments(kube):
        if time.monotonic() - start > seconds:
            raise UnhealthyError(f"the cluster is not whole after {seconds:.0f} s: {', '.join(missing)}")
        time.sleep(1)
    return time.monotonic() - start


def ailments(kube: Kube) -> list[str]:
    """Return what of the cluster is not ready."""
    found = [f"node {node['metadata']['name']}" for node in kube.items("nodes") if not _is_ready(node)]
    for namespace, name in DEPLOYMENTS:
        deployment = kube.find("deployments", name, namespace=namespace)
        if deployment is None or not _is_rolled_out(deployment):
            found.append(f"deployment {name}")
    pods = kube.items("pods", selector="tier=control-plane", namespace="kube-system")
    ready = {pod["metadata"]["labels"]["component"] for pod in pods if _is_ready(pod)}
    return found + [f"control plane's {name}" for name in STATIC if name not in ready]


def _is_ready(item: Object) -> bool:
    if item["spec"].get("unschedulable") or item["spec"].get("taints"):
        return False
    conditions = item["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _is_rolled_out(deployment: Object) -> bool:
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    counts = (status.get("replicas", 0), status.get("availableReplicas", 0))
    return counts == (wanted, wanted) and status.get("observedGeneration") == deployment["metadata"]["generation"]
