"""What the figures were measured on and with."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from finetune_cluster.tools import ETCD_VERSION, KUBERNETES_VERSION, TOOLS

OPERATOR = ("operator", "api", "crds", "charts")
"""What makes the operator: a commit that touches nothing of it leaves its runs valid."""
UPSTREAM = {"kwok": "sigs.k8s.io/kwok", "training-operator": "github.com/kubeflow/training-operator"}


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, kernel and the versions of every program that takes part."""
    return {
        "cpu": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)")) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kubernetes": KUBERNETES_VERSION,
        "etcd": ETCD_VERSION,
        **{name: pinned_version(name) for name in UPSTREAM},
    }


def pinned_version(tool: str) -> str:
    """Return the version of an upstream project that a tool's go.mod pins."""
    return _first(TOOLS[tool].folder / "go.mod", rf"\s{re.escape(UPSTREAM[tool])} (v\S+)")


def commit_of(source: Path) -> str:
    """Return the last commit of a checkout's operator, with `+` when it was changed since; empty when it has none."""
    commit = _git(source, "log", "-1", "--format=%h", "--", *OPERATOR)
    changed = _git(source, "status", "--porcelain", "--", *OPERATOR)
    return commit + ("+" if changed else "")


def _git(source: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(source), *arguments], check=False, capture_output=True, text=True)
    return result.stdout.strip()


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text())
    return found.group(1).strip() if found else "unknown"
