"""Programs we call, the lock between callers, and the printed steps with their seconds."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TAIL_LINES = 15
_printing = threading.Lock()


class ClusterError(Exception):
    """Something a user can mend; the message is one sentence or one sentence and a program's last words."""


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    log: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    With ``log`` both streams go to that file and the result is empty. Raises ClusterError with the last lines of
    output when the program is missing, fails or exceeds ``timeout`` seconds.
    """
    command = [str(word) for word in argv]
    environment = {**os.environ, **env} if env else None
    with _output(log) as sink:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                input=stdin,
                timeout=timeout,
                check=False,
                stdout=sink or subprocess.PIPE,
                stderr=subprocess.STDOUT if sink else subprocess.PIPE,
                **({} if stdin is not None else {"stdin": subprocess.DEVNULL}),  # type: ignore[call-overload]
            )
        except FileNotFoundError as error:
            raise ClusterError(f"{command[0]} is not installed: {error}.") from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`{_short(command)}` did not end within {timeout:.0f} s.") from error
    if done.returncode != 0:
        words = log.read_bytes() if log else (done.stdout or b"") + (done.stderr or b"")
        raise ClusterError(f"`{_short(command)}` failed with exit code {done.returncode}:\n{_tail(words)}")
    return "" if log else str(done.stdout.decode(errors="replace"))


def succeeds(argv: Sequence[str | Path], *, timeout: float = 20) -> bool:
    """Whether a program ends with exit code 0 within ``timeout`` seconds; False when it is missing."""
    try:
        run(argv, timeout=timeout)
    except ClusterError:
        return False
    return True


@contextmanager
def _output(log: Path | None) -> Iterator[int | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        yield stream.fileno()


def _short(command: Sequence[str]) -> str:
    words = " ".join(command)
    return words if len(words) <= 160 else words[:157] + "..."


def _tail(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").strip().splitlines()[-TAIL_LINES:])


def say(line: str) -> None:
    """Print one line at once, whole even when several threads print."""
    with _printing:
        print(line, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print ``what`` with the seconds its block took."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  failed {time.monotonic() - started:6.1f} s  {what}")
        raise
    say(f"  done   {time.monotonic() - started:6.1f} s  {what}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; it falls with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  waiting for another caller that holds {path.name}", file=sys.stderr, flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
