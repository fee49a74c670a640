"""The cluster where a Docker engine answers: kind, from the repository's ``kind-config.yaml``."""

import os
from collections.abc import Iterable, Sequence

from . import tools
from .layout import REPOSITORY, Layout
from .process import ClusterError, locked, run, say, step, succeeds

CLUSTER = "finetune"


def up(layout: Layout) -> None:
    """Create the kind cluster, or keep it when its nodes are ready."""
    tools.build_tools(layout, ["kubectl", "kind"])
    with locked(layout.locks / "cluster"):
        if _is_healthy(layout):
            say("  the cluster is up and healthy")
            return
        _kind(layout, "delete", "cluster")
        with step("kind cluster"):
            layout.kubeconfig.unlink(missing_ok=True)
            config = str(REPOSITORY / "kind-config.yaml")
            _kind(layout, "create", "cluster", "--config", config, "--wait", "180s")


def _is_healthy(layout: Layout) -> bool:
    if not layout.kubeconfig.exists():
        return False
    kubectl = [str(tools.find_tool(layout, "kubectl")), "--kubeconfig", str(layout.kubeconfig)]
    return succeeds([*kubectl, "wait", "--for=condition=Ready", "node", "--all", "--timeout=15s"])


def down(layout: Layout) -> None:
    """Delete the kind cluster."""
    with locked(layout.locks / "cluster"), step("cluster down"):
        _kind(layout, "delete", "cluster")
        layout.kubeconfig.unlink(missing_ok=True)


def _kind(layout: Layout, *arguments: str) -> str:
    chosen = ["--name", CLUSTER]
    if arguments[1] == "cluster":
        chosen += ["--kubeconfig", str(layout.kubeconfig)]
    return run([tools.find_tool(layout, "kind"), *arguments, *chosen])


def load_images(layout: Layout, names: Iterable[str]) -> None:
    """Copy these images from the Docker engine into every node."""
    for name in names:
        with step(f"load {name}"):
            _kind(layout, "load", "docker-image", name)


def container_of(nodes: Sequence[str], name: str) -> str:
    """The container that is the node of this name. Raises ClusterError when it is none of the cluster's nodes."""
    if name not in nodes:
        raise ClusterError(f"No such node: {name}; the nodes are {', '.join(nodes) or 'none, as no cluster is up'}.")
    return name


def _container(layout: Layout, name: str) -> str:
    return container_of(_kind(layout, "get", "nodes").split(), name)


def exec_argv(layout: Layout, name: str, command: Sequence[str]) -> list[str]:
    """The argv that runs ``command`` on a node."""
    return ["docker", "exec", _container(layout, name), *command]


def kill_node(layout: Layout, name: str) -> None:
    """Kill a node as a power failure would."""
    run(["docker", "kill", _container(layout, name)])


def start_node(layout: Layout, name: str) -> None:
    """Bring a killed node back."""
    run(["docker", "start", _container(layout, name)])


def status(layout: Layout) -> None:
    """Print the nodes and pods."""
    environment = {"KUBECONFIG": str(layout.kubeconfig)} | {"PATH": os.environ["PATH"]}
    say(run([tools.find_tool(layout, "kubectl"), "get", "nodes,pods", "-A", "-o", "wide"], env=environment).rstrip())
