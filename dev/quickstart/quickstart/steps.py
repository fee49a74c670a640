"""Numbered steps with their seconds, and the commands they run."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build"


class StepError(RuntimeError):
    """A step cannot go on; the message says why."""


class Steps:
    """Prints each step as it begins and ends, and remembers how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """Announce a step, run its body, print its seconds."""
        print(f"\n== {title}", flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        print(f"   {name}: {self.seconds[name]:.0f} s", flush=True)


def run(*command: str, text: str | None = None, quiet: bool = False) -> str:
    """Run a command and return what it printed; with `quiet` it is shown only when the command fails.

    Raises StepError when it fails; its own words are printed before.
    """
    done = subprocess.run(command, check=False, input=text, text=True, capture_output=quiet)
    if done.returncode:
        sys.stderr.write((done.stdout or "") + (done.stderr or ""))
        raise StepError(f"`{' '.join(command)}` ended with exit code {done.returncode}; its words are above")
    return done.stdout or ""


def kubectl(*arguments: str, text: str | None = None) -> str:
    """Run kubectl and return its standard output."""
    return run("kubectl", *arguments, text=text, quiet=True)
