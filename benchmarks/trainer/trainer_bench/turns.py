"""A contender's side of taking turns: it trains one repeat when it is told to, and waits in between.

All contenders of a method live at the same time, each with its model loaded, and one of them trains while the others
sleep: what else the machine does falls on all alike. Orders come on standard input, readings go to what was standard
output; everything else that is printed goes to standard error.
"""

import json
import os
import resource
import sys
import time
from typing import Any


class Turns:
    """Waits for turns and tells what they took."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = (0.0, 0.0)

    def begin(self) -> None:
        """Say that this contender is ready, wait until it may go on, and start the clocks."""
        self._tell(event="ready")
        if sys.stdin.readline() != "go\n":  # the campaign has ended
            os._exit(1)
        self._began = (time.perf_counter(), time.process_time())

    def next(self) -> None:
        """Stop the clocks, tell them with the greatest memory so far, and wait for the next turn.

        After the last one too: what follows it must not disturb the others.
        """
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self._tell(event="turn", wall_s=wall, cpu_s=cpu, peak_mb=peak_mb())
        self.begin()

    def finish(self, **readings: Any) -> None:
        """Tell what is known at the end."""
        self._tell(event="end", **readings)

    def _tell(self, **message: Any) -> None:
        """Write one line."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()


def peak_mb() -> float:
    """Return the greatest resident memory of this process, MB of 2**20 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
