"""CPU time and memory of processes, from /proc: exact, and free of any tool of its own."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True)
class Clock:
    """The machine's CPU seconds at one moment, beside those of the processes that are ours."""

    at: float
    machine: float
    ours: float

    def others_since(self, earlier: "Clock") -> float:
        """Return the share of the machine's CPU time that other programs have used since."""
        seconds = (self.at - earlier.at) * (os.cpu_count() or 1)
        return max(0.0, (self.machine - earlier.machine) - (self.ours - earlier.ours)) / seconds


def read_clock() -> Clock:
    """Return the CPU seconds so far; ours are this process and everything that descends from it.

    A process of ours that ends between two readings must have been waited for, or its seconds count as others'.
    """
    mine = sum(cpu_seconds(pid) for pid in [os.getpid(), *descendants(os.getpid())])
    return Clock(time.monotonic(), machine_seconds(), mine)


def machine_seconds() -> float:
    """Return the CPU seconds that all programs have used since boot, the kernel's interrupts left out."""
    user, nice, system = (PROC / "stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of its ended children; 0 when it is gone."""
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15]) / TICKS if fields else 0.0


def started_at(pid: int) -> float:
    """Return when a process was started, on the clock of time.monotonic()."""
    since_boot = int(_stat(pid)[19]) / TICKS
    return since_boot - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()


def children(pid: int) -> dict[int, str]:
    """Return the children of a process, and what they are called (the first 15 letters)."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))) and int(fields[1]) == pid:
            found[int(folder.name)] = (PROC / folder.name / "comm").read_text().strip()
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes below a process."""
    below = list(children(pid))
    return [*below, *(further for child in below for further in descendants(child))]


def memory_mb(pids: Iterable[int], field: str) -> float:
    """Return VmHWM (the peak), VmRSS or Pss (a shared page counts once) of these processes, MB of 2**20 bytes."""
    total = 0
    file = "smaps_rollup" if field == "Pss" else "status"
    for pid in pids:
        lines = (PROC / str(pid) / file).read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return total / 1024


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name; none when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
