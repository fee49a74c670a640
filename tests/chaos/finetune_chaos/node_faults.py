"""Faults of nodes and processes: what a power failure, the kernel or a bad switch does."""

import contextlib
import signal
import sys
from collections.abc import Callable

from finetune_cluster import faults
from finetune_cluster.process import ClusterError

from finetune_api.reasons import Phase
from finetune_chaos.fault import ANY, WORKING, Fault, MissedError, Target, Undo, nothing
from finetune_chaos.workload import SAFE_NODE

LOST_NODE = "worker-1"
WORKER = "train-worker"
S3_PROGRAM = "weed"
STRIKE_TRIES = 40


def kill_rank(target: Target) -> Undo:
    """Kill one training process with signal 9."""
    _signal_in_pod(target, signal.SIGKILL, word=WORKER)
    return nothing


def kill_container(target: Target) -> Undo:
    """Kill every process of the job in a pod."""
    _signal_in_pod(target, signal.SIGKILL, word="finetune_trainer")
    return nothing


def _signal_in_pod(target: Target, number: signal.Signals, *, word: str) -> None:
    """Signal processes of a pod; one that has just started needs a moment to have them."""
    for _ in range(STRIKE_TRIES):
        pod = target.pod()
        if faults.signal_pod(target.layout, pod.node, pod.uid, number, word=word):
            return
        target.life.watcher.wait_until(lambda: target.life.is_over, 0.5)
    raise MissedError(f"no {word} ran")


def kill_node(target: Target) -> Undo:
    """Kill the node that is not the control plane's; it boots again at the undoing."""
    with contextlib.redirect_stdout(sys.stderr):
        faults.kill_node(target.layout, LOST_NODE)

    def boot() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            faults.start_node(target.layout, LOST_NODE)

    return boot


def kill_program(program: str, node: str = SAFE_NODE) -> Callable[[Target], Undo]:
    """Return the fault that kills a program of a node, which something starts again."""

    def strike(target: Target) -> Undo:
        faults.signal_program(target.layout, node, program, signal.SIGKILL)
        return nothing

    return strike


def freeze_program(program: str, node: str = SAFE_NODE) -> Callable[[Target], Undo]:
    """Return the fault that stops a program of a node until the undoing: its connections stay open and silent."""

    def strike(target: Target) -> Undo:
        frozen = [one for one in faults.processes(target.layout, node) if one.program == program]
        faults.send(target.layout, node, signal.SIGSTOP, frozen)
        return lambda: faults.send(target.layout, node, signal.SIGCONT, frozen)

    return strike


def cut_network(target: Target) -> Undo:
    """Pull the network cable of one pod of the job."""
    pod = target.pod()
    link = faults.pod_link(target.layout, pod.node, pod.uid)
    faults.set_link(target.layout, pod.node, link, up=False)

    def plug_in() -> None:
        # With the pod its link may be gone, and a link of a later pod never has its name.
        with contextlib.suppress(ClusterError):
            faults.set_link(target.layout, pod.node, link, up=True)

    return plug_in


NODE_FAULTS = (
    Fault("rank-killed", kill_rank, (Phase.STARTING, Phase.RUNNING), restarts=(1, 1), counted=1, weight=2),
    Fault("container-killed", kill_container, WORKING, restarts=(1, 1), counted=1),
    # A node that is back within its grace period was never lost to Kubernetes: its containers are found crashed.
    Fault("node-lost", kill_node, ANY, hold=(3, 40), restarts=(0, 2), counted=1, seconds=400, weight=2),
    Fault("node-gone", kill_node, (Phase.RUNNING,), hold=(300, 300), until_over=True, restarts=(0, 2), seconds=420),
    Fault("kubelet-killed", kill_program("kubelet", LOST_NODE), ANY, restarts=(0, 0)),
    Fault("kubelet-frozen", freeze_program("kubelet", LOST_NODE), ANY, hold=(5, 45), restarts=(0, 2), seconds=400),
    Fault("api-server-killed", kill_program("kube-apiserver"), ANY, restarts=(0, 0), weight=2),
    Fault("api-server-frozen", freeze_program("kube-apiserver"), ANY, hold=(5, 20), restarts=(0, 1)),
    Fault("etcd-killed", kill_program("etcd"), ANY, restarts=(0, 0), weight=2),
    Fault("controller-manager-killed", kill_program("kube-controller-manager"), ANY, restarts=(0, 0)),
    Fault("network-cut", cut_network, WORKING, hold=(3, 25), restarts=(0, 1), counted=1, seconds=300, weight=2),
    Fault("s3-frozen", freeze_program(S3_PROGRAM), WORKING, hold=(5, 40), restarts=(0, 1), counted=1, seconds=300),
    Fault("s3-killed", kill_program(S3_PROGRAM), WORKING, restarts=(0, 1), counted=1, seconds=300),
)
