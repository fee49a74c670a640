"""Network of the namespaces cluster: one bridge, one cable per node, one route per pod range.

Pods reach each other, the Services and the host; nothing is masqueraded, so that no rule of the host's firewall
changes and pods have no way to the Internet. A default route that answers "unreachable" makes such an attempt fail at
once rather than hang.
"""

import contextlib
import ipaddress
import json
from pathlib import Path

from .process import ClusterError, run, succeeds
from .topology import BRIDGE, BRIDGE_ADDRESS, NODE_SUBNET, NODES, POD_SUBNET, SERVICE_SUBNET, Node

NAMESPACE_FOLDER = Path("/run/netns")


def clash(routes: list[str]) -> str | None:
    """The first of these route destinations that overlaps the cluster's ranges, or None."""
    ours = [ipaddress.ip_network(subnet) for subnet in (NODE_SUBNET, POD_SUBNET, SERVICE_SUBNET)]
    for route in routes:
        if route == "default":
            continue
        with contextlib.suppress(ValueError):
            network = ipaddress.ip_network(route, strict=False)
            if network.prefixlen and any(network.overlaps(subnet) for subnet in ours):
                return route
    return None


def foreign_routes() -> list[str]:
    """Destinations of the host's routes that are not the cluster's own."""
    routes = json.loads(run(["ip", "-4", "-json", "route", "show"]) or "[]")
    return [route["dst"] for route in routes if route.get("dev") != BRIDGE]


def ensure_bridge() -> None:
    """Create the bridge with the host's address on it, unless it stands."""
    if succeeds(["ip", "link", "show", BRIDGE]):
        return
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "addr", "add", f"{BRIDGE_ADDRESS}/{NODE_SUBNET.split('/')[1]}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    run(["ip", "route", "replace", SERVICE_SUBNET, "via", NODES[0].address, "dev", BRIDGE])


def attach(node: Node) -> None:
    """Create the node's network namespace and its cable to the bridge."""
    run(["ip", "netns", "add", node.netns])
    run(["ip", "link", "add", node.veth, "type", "veth", "peer", "name", "eth0", "netns", node.netns])
    run(["ip", "link", "set", node.veth, "master", BRIDGE, "up"])
    inside = ["ip", "-n", node.netns]
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "addr", "add", f"{node.address}/24", "dev", "eth0"])
    run([*inside, "link", "set", "eth0", "up"])
    run([*inside, "route", "add", SERVICE_SUBNET, "via", BRIDGE_ADDRESS])
    # kubeadm insists on a default route with an interface.
    run([*inside, "route", "add", "default", "via", BRIDGE_ADDRESS])


def close_way_out(node: Node) -> None:
    """Let every attempt to leave the cluster fail at once instead of hanging; for a node that has joined."""
    inside = ["ip", "-n", node.netns, "route"]
    run([*inside, "delete", "default"])
    run([*inside, "add", "unreachable", "default"])


def route_pods(node: Node, pod_range: str) -> None:
    """Lead the node's pod range to it, from the host and from every other node."""
    run(["ip", "route", "replace", pod_range, "via", node.address, "dev", BRIDGE])
    for other in NODES:
        if other != node:
            run(["ip", "-n", other.netns, "route", "replace", pod_range, "via", node.address])


def detach(node: Node) -> None:
    """Remove the node's network namespace and cable; what is not there is skipped."""
    present = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()}
    # Both ends of the cable go with either; the namespace alone would take its end away only later.
    if succeeds(["ip", "link", "show", node.veth]):
        run(["ip", "link", "delete", node.veth])
    if node.netns in present:
        run(["ip", "netns", "delete", node.netns])


def remove_all() -> None:
    """Remove namespaces, cables, routes and the bridge; what is not there is skipped."""
    for node in NODES:
        detach(node)
    if succeeds(["ip", "link", "show", BRIDGE]):
        run(["ip", "link", "delete", BRIDGE])
    if NAMESPACE_FOLDER.is_dir() and not any(NAMESPACE_FOLDER.iterdir()):
        # The first `ip netns add` made it a mount point.
        succeeds(["umount", NAMESPACE_FOLDER])
        NAMESPACE_FOLDER.rmdir()


def check_ranges() -> None:
    """Raise ClusterError when the machine already uses one of the cluster's address ranges."""
    taken = clash(foreign_routes())
    if taken is not None:
        raise ClusterError(
            f"The machine already routes {taken}, which the cluster needs ({NODE_SUBNET}, {POD_SUBNET}, "
            f"{SERVICE_SUBNET}): remove that route or use a machine with a Docker engine."
        )
