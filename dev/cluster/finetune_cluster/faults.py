"""Faults below Kubernetes: processes of a node killed or frozen, a pod cut from the network, a node lost.

Everything is asked of the node itself, so that a node of kind, which is a container, breaks in the same way as one
that is a set of namespaces. Only processes of that node are in sight there.
"""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import kind, machine, namespaces, node
from .layout import Layout
from .process import ClusterError, run

LIST_PROCESSES = r"""
for folder in /proc/[0-9]*; do
  command=$(tr '\0\n\t' '   ' <"$folder/cmdline") 2>/dev/null || continue
  groups=$(tr '\n' ' ' <"$folder/cgroup") 2>/dev/null || continue
  printf '%s\t%s\t%s\n' "${folder#/proc/}" "$command" "$groups"
done
"""
LINK = re.compile(r"^(?P<index>\d+): (?P<name>[^:@]+)(?:@if(?P<peer>\d+))?:")


@dataclass(frozen=True)
class Process:
    """A process as its node sees it."""

    pid: int
    command: str
    groups: str

    @property
    def program(self) -> str:
        """Name of its program."""
        return PurePosixPath(self.command.split(" ", 1)[0]).name

    def is_in_pod(self, uid: str) -> bool:
        """Whether it runs in the pod of this uid; the two cgroup drivers write it differently."""
        return f"pod{uid}" in self.groups or f"pod{uid.replace('-', '_')}" in self.groups


def in_node(layout: Layout, name: str, *command: str) -> str:
    """Run a command on a node and return what it printed. Raises ClusterError when it fails."""
    if machine.docker_answers():
        return run(kind.exec_argv(layout, name, command), timeout=30)
    return run(node.inside(namespaces.find_node(name), command), timeout=30)


def processes(layout: Layout, name: str) -> list[Process]:
    """Return the processes of a node."""
    return parse_processes(in_node(layout, name, "sh", "-c", LIST_PROCESSES))


def parse_processes(listing: str) -> list[Process]:
    """Read the listing of a node's processes; those of the kernel and those that just ended have no command."""
    rows = [line.split("\t") for line in listing.splitlines()]
    return [Process(int(row[0]), row[1].strip(), row[2]) for row in rows if len(row) == 3 and row[1].strip()]


def send(layout: Layout, name: str, number: signal.Signals, targets: Iterable[Process]) -> int:
    """Send a signal to processes of a node; return how many it was sent to. One that just ended is no error."""
    pids = [str(process.pid) for process in targets]
    if pids:
        in_node(layout, name, "sh", "-c", f"kill -{number.value} {' '.join(pids)} 2>/dev/null || true")
    return len(pids)


def signal_program(layout: Layout, name: str, program: str, number: signal.Signals) -> None:
    """Signal a program of a node, like kubelet or kube-apiserver. Raises ClusterError when it does not run."""
    found = [process for process in processes(layout, name) if process.program == program]
    if not send(layout, name, number, found):
        raise ClusterError(f"No {program} runs on node {name}.")


def signal_pod(layout: Layout, name: str, uid: str, number: signal.Signals, *, word: str = "") -> int:
    """Signal the processes of a pod whose command holds a word; return how many there were."""
    found = [process for process in processes(layout, name) if process.is_in_pod(uid) and word in process.command]
    return send(layout, name, number, found)


def pod_link(layout: Layout, name: str, uid: str) -> str:
    """Return the node's end of a pod's network cable. Raises ClusterError when no process of the pod runs."""
    inside = next((process for process in processes(layout, name) if process.is_in_pod(uid)), None)
    if inside is None:
        raise ClusterError(f"No process of pod {uid} runs on node {name}.")
    own = in_node(layout, name, "nsenter", "-t", str(inside.pid), "-n", "ip", "-o", "link", "show", "eth0")
    return peer_of(own, in_node(layout, name, "ip", "-o", "link", "show"))


def peer_of(own: str, links: str) -> str:
    """Return the name of the link, among a node's, at the other end of a pod's. Raises ClusterError without one."""
    pod = LINK.match(own)
    for line in links.splitlines():
        link = LINK.match(line)
        if pod and link and link["index"] == pod["peer"]:
            return link["name"]
    raise ClusterError(f"The other end of the pod's link is not on the node: {own.strip()}")


def set_link(layout: Layout, name: str, link: str, *, up: bool) -> None:
    """Plug a network cable of a node in or out; packets are lost meanwhile, and connections stay open."""
    in_node(layout, name, "ip", "link", "set", link, "up" if up else "down")


def kill_node(layout: Layout, name: str) -> None:
    """Kill a node as a power failure would."""
    kind.kill_node(layout, name) if machine.docker_answers() else namespaces.kill_node(name)


def start_node(layout: Layout, name: str) -> None:
    """Bring a killed node back; one that runs is left as it is."""
    (kind if machine.docker_answers() else namespaces).start_node(layout, name)
