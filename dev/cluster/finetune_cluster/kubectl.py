"""The few questions that the cluster's tooling asks its API server, through kubectl."""

import json
import time
from typing import Any

from .layout import Layout
from .process import ClusterError, run
from .tools import find_tool

REQUEST_SECONDS = 10


def call(layout: Layout, *arguments: str) -> str:
    """Run kubectl on the cluster; return what it printed."""
    options = ["--kubeconfig", str(layout.kubeconfig), f"--request-timeout={REQUEST_SECONDS}s"]
    return run([find_tool(layout, "kubectl"), *options, *arguments], timeout=2 * REQUEST_SECONDS)


def pod_range(layout: Layout, name: str, *, seconds: float = 60) -> str:
    """The pod address range given to a node. Raises ClusterError when it gets none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # The node is registered by its kubelet, and the range is given to it afterwards.
        found = call(layout, "get", "node", name, "--ignore-not-found", "-o", "jsonpath={.spec.podCIDR}")
        if found:
            return found
        time.sleep(0.3)
    raise ClusterError(
        f"Node {name} did not join within {seconds:.0f} s: see kubelet.log and kubeadm.log in its folder."
    )


def wait_ready(layout: Layout, nodes: list[str], *, seconds: float) -> None:
    """Wait until these nodes are ready and DNS runs. Raises ClusterError with the reason after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        reason = _not_ready(layout, nodes)
        if reason is None:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"The cluster is not ready after {seconds:.0f} s: {reason}.")
        time.sleep(0.5)


def _not_ready(layout: Layout, nodes: list[str]) -> str | None:
    try:
        found = json.loads(call(layout, "get", "nodes", "-o", "json"))["items"]
        dns = json.loads(call(layout, "get", "deployment", "coredns", "--namespace", "kube-system", "-o", "json"))
    except ClusterError as error:
        return str(error)
    return unready(found, nodes, available=dns["status"].get("availableReplicas", 0))


def unready(found: list[dict[str, Any]], nodes: list[str], *, available: int) -> str | None:
    """Why the cluster is not ready, given its node objects and the number of DNS replicas; None when it is."""
    ready = {name for item in found if (name := _ready_name(item))}
    missing = [name for name in nodes if name not in ready]
    if missing:
        return f"not ready: {', '.join(missing)}"
    return None if available else "no CoreDNS replica is available"


def _ready_name(item: dict[str, Any]) -> str | None:
    conditions = {condition["type"]: condition["status"] for condition in item["status"].get("conditions", [])}
    return str(item["metadata"]["name"]) if conditions.get("Ready") == "True" else None
