"""One node of the namespaces cluster: start, stop, and run something inside.

A node is a set of namespaces around ``node-init.sh``. Nothing of it is remembered in a pid file: it is found through
its cgroup, so a node that outlived its starter is found as well as one that was killed half-way.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import cgroups, configuration
from .layout import SOURCES, Layout
from .process import ClusterError, run
from .topology import Node

START_SECONDS = 30.0
NETWORK_LIST = "10-bridge.conflist"
CTR = ("ctr", "--namespace", "k8s.io")


def prepare(layout: Layout, node: Node) -> None:
    """Write the node's folder: what its init and its containerd read."""
    folder = layout.node(node.name)
    networks = network_folder(layout, node)
    networks.mkdir(parents=True, exist_ok=True)
    (folder / "containerd.toml").write_text(configuration.containerd_file(networks))
    (folder / "resolv.conf").write_text(configuration.resolver_file())


def network_folder(layout: Layout, node: Node) -> Path:
    """Folder of the node's CNI configuration."""
    return layout.node(node.name) / "cni"


def write_network_list(layout: Layout, node: Node, pod_range: str) -> None:
    """Give the node's pods their addresses; its kubelet is ready from then on."""
    content = json.dumps(configuration.network_list(pod_range))
    (network_folder(layout, node) / NETWORK_LIST).write_text(content)


def pod_range(layout: Layout, node: Node) -> str:
    """The pod address range that the node was given when it joined."""
    content = json.loads((network_folder(layout, node) / NETWORK_LIST).read_text())
    return str(content["plugins"][0]["ipam"]["ranges"][0][0]["subnet"])


def start(layout: Layout, node: Node) -> None:
    """Start the node's init in its prepared folder and network, and wait until its containerd answers."""
    # The groups of containers that died with the last init would delay the kubelet by seconds each.
    cgroups.remove(node.cgroup)
    leaves = cgroups.create(node)
    with (layout.node(node.name) / "node.log").open("ab") as log:
        # The init outlives us by design: it is ended through its cgroup.
        subprocess.Popen(
            [SOURCES / "node-launch.sh", layout.state, node.name, node.netns, *leaves],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not _answers(node):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"Node {node.name} did not start: see node.log and containerd.log in {layout.node(node.name)}."
            )
        time.sleep(0.2)


def _answers(node: Node) -> bool:
    try:
        ctr(node, "version")
    except ClusterError:
        return False
    return True


def kill(node: Node) -> None:
    """End every process of the node at once, as a power failure would; its folder and network stay."""
    cgroups.kill(node.cgroup)


def inside(node: Node, command: Sequence[str | Path]) -> list[str]:
    """The argv that runs ``command`` in the node's namespaces. Raises ClusterError when the node is down."""
    pid = cgroups.init_pid(node)
    if pid is None:
        raise ClusterError(f"Node {node.name} is not running: run `python3 dev/cluster start {node.name}` or `up`.")
    return ["nsenter", "-t", str(pid), "-p", "-m", "-n", "-u", "-i", "--", *map(str, command)]


def ctr(node: Node, *arguments: str, stdin: bytes | None = None) -> str:
    """Run containerd's client in the node; return what it printed."""
    return run(inside(node, [*CTR, *arguments]), stdin=stdin)
