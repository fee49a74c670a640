"""A benchmark as a program: what it says on the way, and how it ends."""

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from bench_harness.errors import BenchError


def run(name: str, work: Callable[[], int], *, failure: type[Exception], farewell: str = "") -> int:
    """Do the work; return the exit code: its own, 1 for a BenchError or `failure`, 130 when it was interrupted.

    SIGTERM leaves every `with`, so that all that was started ends; `farewell` is said then.
    """

    def end(*_: object) -> NoReturn:
        if farewell:
            say(f"{name}: {farewell}")
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        return work()
    except (BenchError, failure) as error:
        say(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    """Write a line for people: standard output is the result's."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
