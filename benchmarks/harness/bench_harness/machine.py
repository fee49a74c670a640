"""What figures were measured on, and of which commit."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe_hardware() -> dict[str, Any]:
    """Return processor, memory, kernel and the version of Python."""
    return {
        "cpu": first_match(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(first_match(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)")) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit_of(source: Path, parts: Sequence[str]) -> str:
    """Return the last commit of parts of a checkout, with `+` when they were changed since; empty without one."""
    commit = _git(source, "log", "-1", "--format=%h", "--", *parts)
    return commit + ("+" if _git(source, "status", "--porcelain", "--", *parts) else "")


def first_match(path: Path, pattern: str) -> str:
    """Return the first group of a pattern in a file."""
    found = re.search(pattern, path.read_text())
    return found.group(1).strip() if found else "unknown"


def _git(source: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(source), *arguments], check=False, capture_output=True, text=True)
    return result.stdout.strip()
