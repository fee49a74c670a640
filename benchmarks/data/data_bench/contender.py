"""A contender as the campaign sees it: a process whose time and memory, with all below it, are measured."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench_harness.errors import BenchError
from bench_harness.offline import offline
from bench_harness.proc import cpu_seconds, descendants, machine_seconds, memory_mb
from data_bench.task import Task

ROOT = Path(__file__).resolve().parents[3]
PATHS = ("api", "trainer_image", "benchmarks/harness", "benchmarks/data")
_LOG_TAIL = 3000
_INTERVAL = 0.5
"""Seconds between two readings of memory."""
Readings = dict[str, Any]


def run(role: str, task: Task) -> Readings:
    """Let a contender encode the rows of a task; return its readings. Raises BenchError when it fails."""
    folder = Path(task.folder)
    folder.mkdir(parents=True)
    order, log = folder / "task.json", folder / "log"
    task.save(order)
    before, began = machine_seconds(), time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "data_bench.child", role, str(order)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **_environment(folder)},
        )
        peak, cpu = _watch(process)
        output = process.communicate()[0]
    if process.returncode:
        raise BenchError(f"{role} ended with exit code {process.returncode}:\n{log.read_text()[-_LOG_TAIL:]}")
    seconds = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = max(0.0, machine_seconds() - before - cpu) / seconds
    told: Readings = json.loads(output.splitlines()[-1])
    return {**told, "cpu_s": cpu, "peak_mb": peak, "others_cpu_percent": round(100 * others, 1)}


def _watch(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Wait for the end; return the most memory of all processes together, MB, and their CPU seconds."""
    peak = cpu = 0.0
    while process.poll() is None:
        tree = [process.pid, *descendants(process.pid)]
        with suppress(OSError, StopIteration):  # one that is gone by now
            peak = max(peak, memory_mb(tree, "Pss"))
        cpu = max(cpu, sum(cpu_seconds(one) for one in tree))
        time.sleep(_INTERVAL)
    return peak, cpu


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in PATHS),
        **offline(folder),
    }
