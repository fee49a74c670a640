"""Where our operator's time goes: samples of its Python stacks, taken from outside while the jobs run.

A sampler costs the operator next to nothing; a tracing profiler would slow it by half and measure itself.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench_harness.errors import BenchError

RATE = 200
TOP = 25


@contextlib.contextmanager
def profiling(pid: int, output: Path | None) -> Iterator[None]:
    """Sample a Python process into `output` while this is entered; without an output do nothing."""
    if output is None:
        yield
        return
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise BenchError("--profile needs py-spy: `.venv/bin/python -m pip install py-spy`")
    command = [program, "record", "--pid", str(pid), "--format", "raw", "--rate", str(RATE), "--output", str(output)]
    process = subprocess.Popen([*command, "--nonblocking"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # it writes its file then
        process.wait(timeout=60)


def top_functions(output: Path) -> str:
    """Return the functions that the samples were in: themselves, and with all that they call."""
    alone, within, total = Counter[str](), Counter[str](), 0
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        total += int(count)
        alone[frames[-1]] += int(count)
        within.update({frame: int(count) for frame in set(frames)})
    parts = (_table("itself", alone, total), _table("with all that it calls", within, total))
    return f"{total / RATE:.1f} s sampled\n" + "\n".join(parts)


def _table(title: str, counts: Counter[str], total: int) -> str:
    lines = [f"{count / total:6.1%}  {name}" for name, count in counts.most_common(TOP)]
    return "\n".join([f"-- {title}", *lines])


def _function(frame: str) -> str:
    """Return a frame without its line number."""
    return frame.rpartition(":")[0] + ")" if ":" in frame else frame
