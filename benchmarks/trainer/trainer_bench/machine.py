"""What the figures were measured on and with."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "trl", "deepspeed", "bitsandbytes")
TRAINER = ("trainer_image", "api", "benchmarks/trainer/trainer_bench")
"""What makes the figures: other commits leave them valid."""
ROOT = Path(__file__).resolve().parents[3]


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, kernel and the versions of every library that takes part."""
    return {
        "cpu": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)")) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def commit_of() -> str:
    """Return the last commit of what is measured, with `+` when it was changed since; empty when there is none."""
    commit = _git("log", "-1", "--format=%h", "--", *TRAINER)
    return commit + ("+" if _git("status", "--porcelain", "--", *TRAINER) else "")


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True)
    return result.stdout.strip()


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text())
    return found.group(1).strip() if found else "0"
