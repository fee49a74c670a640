"""Server processes that never outlive their starter."""

import contextlib
import ctypes
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.05
FIRST_PORT = 12_000
PORTS_PER_PROCESS = 4_000


class ServerError(Exception):
    """A server ended or did not answer in time; the message holds the end of its log."""


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 that nobody listens on now, and that no connection is given (these are higher).

    Test processes side by side draw from ranges of their own: a port is taken only when its server starts.
    """
    first = FIRST_PORT + PORTS_PER_PROCESS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    drawn = random.sample(range(first, first + PORTS_PER_PROCESS), PORTS_PER_PROCESS)
    return list(itertools.islice(filter(_is_free, drawn), count))


def _is_free(port: int) -> bool:
    with socket.socket() as one, contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        return True
    return False


@contextlib.contextmanager
def server(command: Sequence[str | Path], *, log: Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, its output in `log`; killed at the end (SIGKILL: none of them has anything to save)."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into libc; the starter has no threads that matter
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def await_ready(process: subprocess.Popen[bytes], is_ready: Callable[[], bool], *, log: Path, seconds: float) -> None:
    """Return when `is_ready()` holds. Raises ServerError when the process ends or `seconds` have passed before."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            state = f"exited with {process.returncode}" if process.returncode is not None else "does not answer"
            raise ServerError(f"{Path(str(process.args[0])).name} {state}; end of {log}:\n{tail}")  # type: ignore[index]
        time.sleep(POLL_SECONDS)


def until(holds: Callable[[], bool], *, seconds: float) -> float:
    """Wait until it holds; return how long it took. Raises AssertionError when it does not in time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began >= seconds:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


def die_with_parent() -> None:
    """Let the kernel kill this process as soon as the one that started it is gone."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
