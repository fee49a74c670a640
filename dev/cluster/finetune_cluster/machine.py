"""What the machine is and has: facts, the refusals that follow from them, and Debian packages."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import cgroups
from .layout import Layout
from .process import ClusterError, run, say, step, succeeds

MEMORY_GIB = 8
DISK_GB = 40
FOREIGN_CLUSTER = Path("/etc/kubernetes/admin.conf")
# What proves a package present, by package.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "iproute2": "ip",
    "iptables": "iptables",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
}
UNUSABLE_DISKS = ("overlayfs", "tmpfs")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Facts:
    """What decides whether the namespaces cluster can run here."""

    is_root: bool
    memory_gib: float
    free_disk_gb: float
    hierarchies: frozenset[str]
    has_foreign_cluster: bool
    builds_images: bool
    disk_type: str


def docker_answers() -> bool:
    """Whether a Docker engine answers; then the cluster is kind's."""
    return succeeds(["docker", "info"], timeout=10)


def facts(layout: Layout, *, builds_images: bool) -> Facts:
    """Look at the machine. ``builds_images`` says whether gigabytes are about to be written."""
    return Facts(
        is_root=os.geteuid() == 0,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        free_disk_gb=free_disk_gb(layout),
        hierarchies=frozenset(path.name for path in cgroups.hierarchies()),
        has_foreign_cluster=FOREIGN_CLUSTER.exists(),
        builds_images=builds_images,
        disk_type=run(["stat", "--file-system", "--format", "%T", _existing(layout)]).strip(),
    )


def free_disk_gb(layout: Layout) -> float:
    """Free gigabytes on the state folder's disk."""
    return shutil.disk_usage(_existing(layout)).free / 1e9


def _existing(layout: Layout) -> Path:
    return next(path for path in (layout.state, *layout.state.parents) if path.exists())


def refusal(found: Facts) -> str | None:
    """The one sentence that says why the namespaces cluster cannot run here, or None."""
    groups = ", ".join(sorted(cgroups.NEEDED))
    rules = (
        (
            not found.is_root,
            "Without a Docker engine the cluster is made of namespaces, which needs root: run this as root.",
        ),
        (
            found.has_foreign_cluster,
            f"{FOREIGN_CLUSTER} says that this machine is a node of another cluster: use another machine.",
        ),
        (
            found.memory_gib < MEMORY_GIB,
            f"The cluster needs {MEMORY_GIB} GiB of memory and the machine has {found.memory_gib:.1f} GiB.",
        ),
        (
            found.builds_images and found.free_disk_gb < DISK_GB,
            f"Images need {DISK_GB} GB of free disk and there are {found.free_disk_gb:.0f} GB: free some.",
        ),
        (
            not cgroups.is_usable(set(found.hierarchies)),
            f"The namespaces cluster needs the version 1 control groups {groups} under {cgroups.MOUNT}: "
            "start a Docker engine instead, and kind is used.",
        ),
        (
            found.disk_type in UNUSABLE_DISKS,
            f"The state folder is on {found.disk_type}, which cannot hold image layers: put it on ext4 or xfs.",
        ),
    )
    return next((sentence for applies, sentence in rules if applies), None)


def check(found: Facts) -> None:
    """Raise ClusterError with the refusal, if there is one."""
    sentence = refusal(found)
    if sentence is not None:
        raise ClusterError(sentence)


def missing_packages() -> list[str]:
    """Debian packages that the namespaces cluster needs and the machine lacks."""
    return [package for package, program in PACKAGES.items() if shutil.which(program, path=SYSTEM_PATH) is None]


def install_packages() -> None:
    """Install the missing packages with apt; raises ClusterError where there is no apt or it fails."""
    missing = missing_packages()
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"Install {', '.join(missing)} with this machine's package manager, then run this again.")
    say(f"  installing Debian packages: {' '.join(missing)}")
    with step("Debian packages"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "--quiet"], env=quiet)
        run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *missing], env=quiet)
