"""The cluster made of namespaces: up, down, images into it, one node killed and brought back.

The policy for repair is the simplest honest one: a cluster that is whole and healthy is kept; anything else (dead,
half started, of other settings, of before a reboot) is torn down whole and started again from cached images.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import buildah, cgroups, configuration, images, kubectl, loader, machine, network, node, tools
from .layout import SOURCES, Layout
from .process import ClusterError, locked, run, say, step
from .topology import CGROUP_ROOT, CONTROL_PLANE, NODES, WORKER, Node

SCRIPTS = ("node-init.sh", "node-launch.sh", "containerd.toml")
KUBEADM_SECONDS = 180.0
HEALTHY_SECONDS = 30.0
READY_SECONDS = 120.0


def up(layout: Layout) -> None:
    """Bring the cluster up, or keep it when it is healthy. Raises ClusterError when the machine cannot hold it."""
    machine.install_packages()
    machine.check(machine.facts(layout, builds_images=not buildah.has_image(layout, buildah.BASE_IMAGE)))
    tools.build_tools(layout, [*tools.NODE_TOOLS, "kubectl"])
    images.build_cluster_images(layout)
    with locked(layout.locks / "cluster"):
        if is_healthy(layout):
            say("  the cluster is up and healthy")
            return
        with step("remove what is left of an earlier cluster"):
            _tear_down(layout)
        network.check_ranges()
        _start(layout)


def down(layout: Layout) -> None:
    """Remove the cluster with its processes, network and cgroups; caches stay."""
    with locked(layout.locks / "cluster"), step("cluster down"):
        _tear_down(layout)


def _tear_down(layout: Layout) -> None:
    layout.record.unlink(missing_ok=True)
    layout.kubeconfig.unlink(missing_ok=True)
    cgroups.kill(CGROUP_ROOT)
    network.remove_all()
    cgroups.remove(CGROUP_ROOT)
    if layout.nodes.exists():
        shutil.rmtree(layout.nodes)


def _start(layout: Layout) -> None:
    with step("nodes with their containerd and images"):
        network.ensure_bridge()
        for each in NODES:
            node.prepare(layout, each)
            network.attach(each)
        _on_every_node(lambda each: _start_node(layout, each))
    token = f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"
    with step("kubeadm init"):
        _run_kubeadm(layout, CONTROL_PLANE, "init", _init_documents(layout, token))
        _copy_kubeconfig(layout)
        _connect(layout, CONTROL_PLANE)
    with step("kubeadm join"):
        _run_kubeadm(layout, WORKER, "join", configuration.join_documents(WORKER, token))
        _connect(layout, WORKER)
    with step("nodes ready, DNS answers"):
        kubectl.wait_ready(layout, [each.name for each in NODES], seconds=READY_SECONDS)
    layout.record.write_text(json.dumps({"key": cluster_key(), "boot": _boot()}))


def _start_node(layout: Layout, each: Node) -> None:
    node.start(layout, each)
    names = images.CLUSTER_IMAGES if each == CONTROL_PLANE else images.NODE_IMAGES
    for name in [*names, *_built_project_images(layout)]:
        loader.load(layout, each, buildah.stored_image(layout, name))


def _built_project_images(layout: Layout) -> list[str]:
    names = [source.name for source in images.PROJECT_IMAGES.values()]
    return [name for name in names if buildah.has_image(layout, name)]


def _on_every_node(action: Callable[[Node], None]) -> None:
    with ThreadPoolExecutor(len(NODES)) as pool:
        for pending in [pool.submit(action, each) for each in NODES]:
            pending.result()


def _init_documents(layout: Layout, token: str) -> list[configuration.Document]:
    patches = layout.node(CONTROL_PLANE.name) / "patches"
    patches.mkdir(exist_ok=True)
    for name, patch in configuration.patch_files().items():
        (patches / name).write_text(json.dumps(patch))
    return configuration.init_documents(token, patches)


def _run_kubeadm(layout: Layout, each: Node, verb: str, documents: list[configuration.Document]) -> None:
    folder = layout.node(each.name)
    file = folder / "kubeadm.yaml"
    file.write_text(configuration.render(documents))
    file.chmod(0o600)
    command = [str(layout.bin / "kubeadm"), verb, "--config", str(file), "--ignore-preflight-errors=all"]
    run(node.inside(each, command), timeout=KUBEADM_SECONDS, log=folder / "kubeadm.log")


def _copy_kubeconfig(layout: Layout) -> None:
    source = layout.node(CONTROL_PLANE.name) / "etc/kubernetes/admin.conf"
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_bytes(source.read_bytes())


def _connect(layout: Layout, each: Node) -> None:
    pod_range = kubectl.pod_range(layout, each.name)
    node.write_network_list(layout, each, pod_range)
    network.route_pods(each, pod_range)
    network.close_way_out(each)


def cluster_key() -> str:
    """Key of everything a running cluster was started from; another key means it must be started anew."""
    documents = [configuration.init_documents("", Path("/patches")), configuration.join_documents(WORKER, "")]
    parts = [tools.key_of(tools.TOOLS[name]) for name in ("kubelet", "kubeadm")]
    parts += [images.cluster_image_key(tool) for tool in images.CLUSTER_IMAGES.values()]
    parts += [json.dumps([*documents, configuration.patch_files(), configuration.network_list("")])]
    parts += [(SOURCES / name).read_text() for name in SCRIPTS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_healthy(layout: Layout) -> bool:
    """Whether the running cluster is whole, of the present settings, and answers."""
    if not layout.record.exists() or json.loads(layout.record.read_text()) != {"key": cluster_key(), "boot": _boot()}:
        return False
    if any(cgroups.init_pid(each) is None for each in NODES):
        return False
    try:
        kubectl.wait_ready(layout, [each.name for each in NODES], seconds=HEALTHY_SECONDS)
    except ClusterError:
        return False
    return True


def load_images(layout: Layout, names: Iterable[str]) -> None:
    """Make these built images available on every running node."""
    stored = [buildah.stored_image(layout, name) for name in names]
    for each in NODES:
        if cgroups.init_pid(each) is None:
            say(f"  node {each.name} is not running: it gets the images when it starts")
            continue
        for image in stored:
            with step(f"load {image.name} on {each.name}"):
                loader.load(layout, each, image)


def find_node(name: str) -> Node:
    """The node of this name. Raises ClusterError when there is none."""
    for each in NODES:
        if each.name == name:
            return each
    raise ClusterError(f"No such node: {name}; the nodes are {', '.join(each.name for each in NODES)}.")


def kill_node(name: str) -> None:
    """Kill a node as a power failure would."""
    node.kill(find_node(name))


def start_node(layout: Layout, name: str) -> None:
    """Bring a killed node back, with images built meanwhile. Raises ClusterError when the cluster is not up."""
    each = find_node(name)
    if cgroups.init_pid(each) is not None:
        say(f"  node {name} is running")
        return
    if not layout.record.exists():
        raise ClusterError("The cluster is not up: run `python3 dev/cluster up`.")
    with step(f"start node {name}"):
        node.kill(each)
        _reset_network(layout, each)
        _start_node(layout, each)


def _reset_network(layout: Layout, each: Node) -> None:
    """Give the node a fresh network, as a reboot would: kube-proxy and CNI misread what they left before."""
    network.detach(each)
    network.attach(each)
    for other in NODES:
        network.route_pods(other, node.pod_range(layout, other))
    network.close_way_out(each)


def status(layout: Layout) -> None:
    """Print each node's init and, when the API answers, its state."""
    for each in NODES:
        pid = cgroups.init_pid(each)
        say(f"{each.name:10} {each.address:12} {'down' if pid is None else f'up, init {pid}'}")
    if layout.kubeconfig.exists():
        say(kubectl.call(layout, "get", "nodes,pods", "-A", "-o", "wide").rstrip())
