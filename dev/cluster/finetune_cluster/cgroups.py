"""Control groups of the nodes: the place a node's processes are counted, limited and found again.

Every process of a node lives under ``finetune-cluster/<node>`` in each version 1 hierarchy, its daemons in the leaf
``init`` and its pods in ``kubepods``. Membership survives a lost pid file, so it is how a node is found and killed.
"""

import os
import signal
import time
from pathlib import Path

from .process import ClusterError
from .topology import Node

MOUNT = Path("/sys/fs/cgroup")
UNIFIED = "unified"
INIT = "init"
# Kubelet and containerd keep answering while every core trains: 8 times a pod's share.
INIT_CPU_SHARES = "8192"
NEEDED = frozenset({"cpu", "cpuset", "memory", "pids", "devices", "freezer"})
KILL_SECONDS = 20.0


def hierarchies() -> list[Path]:
    """Mount points of the version 1 hierarchies."""
    return [path for path in _mounts() if path.name != UNIFIED]


def _mounts() -> list[Path]:
    if not MOUNT.is_dir():
        return []
    return sorted(path for path in MOUNT.iterdir() if path.is_dir() and not path.is_symlink())


def is_usable(names: set[str]) -> bool:
    """Whether these version 1 hierarchies are all that a node needs; ``cpu,cpuacct`` counts as both."""
    return {part for name in names for part in name.split(",")} >= NEEDED


def create(node: Node) -> list[Path]:
    """Create the node's groups; return the leaf of each hierarchy that its daemons join."""
    leaves = []
    for hierarchy in hierarchies():
        leaf = hierarchy / node.cgroup / INIT
        for group in (leaf.parents[1], leaf.parent, leaf):
            group.mkdir(exist_ok=True)
            if (group / "cpuset.cpus").exists():
                _inherit_cpuset(group)
        if (leaf / "cpu.shares").exists():
            (leaf / "cpu.shares").write_text(INIT_CPU_SHARES)
        leaves.append(leaf)
    return leaves


def _inherit_cpuset(group: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        (group / name).write_text((group.parent / name).read_text())


def processes(relative: str) -> set[int]:
    """Host pids of every process in this group or below, over all hierarchies."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for path in _groups(hierarchy / relative):
            try:
                found.update(int(word) for word in (path / "cgroup.procs").read_text().split())
            except FileNotFoundError:
                continue
    return found


def init_pid(node: Node) -> int | None:
    """Host pid of the node's init, which is process 1 of the node's pid namespace; None when the node is down."""
    for pid in sorted(processes(f"{node.cgroup}/{INIT}")):
        if _namespace_pids(pid)[1:] == ["1"]:
            return pid
    return None


def _namespace_pids(pid: int) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])


def kill(relative: str) -> None:
    """Kill every process in this group or below and wait until none is left. Raises ClusterError after 20 s."""
    deadline = time.monotonic() + KILL_SECONDS
    while pids := processes(relative):
        if time.monotonic() > deadline:
            raise ClusterError(f"Processes {sorted(pids)} of the cluster do not die: look at them with ps.")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(relative: str) -> None:
    """Remove this group and those below from every hierarchy; their processes must be gone.

    That includes the unified hierarchy, in which runc makes groups of its own accord.
    """
    for hierarchy in _mounts():
        for group in reversed(_groups(hierarchy / relative)):
            group.rmdir()


def _groups(top: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(top)]
