"""What one process of a pod does for all, and takes long: meanwhile none of them seems to hang.

The main threads stay in step: they look together whether the work is done, so that those who wait give signs of life
for as long as the others answer, and one that works for as long as something comes of it on the disk.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from finetune_trainer.train.processes import Process, anywhere, everywhere
from finetune_trainer.train.watchdog import Watchdog

LOOK_SECONDS = 5.0


def run_errand(work: Callable[[], bool], place: Path, process: Process, watchdog: Watchdog) -> bool:
    """Do work that fills a folder, once per pod and in a thread; return whether it went well in all pods.

    Every process must call it. Raises what the work raises.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="errand")
    try:
        errand, seen = pool.submit(work if process.local_rank == 0 else _nothing), _written(place)
        while anywhere(not _is_done(errand), process):
            before, seen = seen, _written(place)
            if errand.done() or seen != before:
                watchdog.beat()
        return everywhere(errand.result(), process)
    finally:
        # After SIGTERM nobody waits for it.
        pool.shutdown(wait=False)


def _nothing() -> bool:
    """Do what is left to do where another process does the work."""
    return True


def _is_done(errand: Future[bool]) -> bool:
    """Wait a while; a failure is raised at once, though others are still at work."""
    wait([errand], LOOK_SECONDS)
    if not errand.done():
        return False
    errand.result()
    return True


def _written(place: Path) -> tuple[int, int]:
    """Return how many files a folder has, and when the newest was written to, in nanoseconds; they come and go."""
    times = []
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                times.append(os.stat(os.path.join(folder, name)).st_mtime_ns)  # noqa: PTH116, PTH118 - there are many
            except FileNotFoundError:
                continue
    return len(times), max(times, default=0)
