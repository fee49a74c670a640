"""A contender as the campaign sees it: a process that is told to go on and says what it read."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench_harness.errors import BenchError
from bench_harness.offline import offline
from finetune_loopback.processes import free_ports
from finetune_trainer.train.stage import CPU_ENVIRONMENT, WORKER_ENVIRONMENT
from trainer_bench.task import Task

ROOT = Path(__file__).resolve().parents[3]
PATHS = ("api", "trainer_image", "benchmarks/harness", "benchmarks/trainer")
OURS = ("ours", "overhead")
"""Roles that train as the product does, in the environment that it gives its processes."""
PRODUCT = WORKER_ENVIRONMENT | CPU_ENVIRONMENT
LOG_TAIL = 3000
"""Characters of a log that a failure shows."""
Message = dict[str, Any]


class Contender:
    """One process of a role."""

    def __init__(self, role: str, task: Task, threads: int) -> None:
        folder = Path(task.root)
        name = f"{role}-{task.method}-{task.precision}"
        order = folder / f"{name}.json"
        order.write_text(task.to_json())
        self.role = role
        self._log = folder / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer_bench.child", role, str(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **_environment(folder, threads), **(PRODUCT if role in OURS else {})},
            )

    def await_ready(self) -> None:
        """Return when it waits to go on. Raises BenchError when it ended instead."""
        self._receive("ready")

    def turn(self) -> Message:
        """Let it train one pass; return its readings when it waits again."""
        self._go()
        readings = self._receive("turn")
        self._receive("ready")
        return readings

    def finish(self) -> Message:
        """Let it end; return what it says."""
        self._go()
        return self._receive("end")

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self, event: str) -> Message:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        message: Message = json.loads(line)
        if message.pop("event") != event:
            raise BenchError(f"{self.role} said {line.strip()}, where {event} was expected")
        return message

    def _failure(self) -> BenchError:
        code = self._process.wait()
        return BenchError(f"{self.role} ended with exit code {code}:\n{self._log.read_text()[-LOG_TAIL:]}")


@contextmanager
def contenders(roles: Sequence[str], task: Task, threads: int) -> Iterator[list[Contender]]:
    """Start processes one after the other, so that no two load at a time; all end with the context."""
    with ExitStack() as stack:
        started = []
        for role in roles:
            contender = Contender(role, task, threads)
            stack.callback(contender.close)
            contender.await_ready()
            started.append(contender)
        yield started


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """Return the variables of a training process that is alone, without a network."""
    return {
        "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in PATHS),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_ports(1)[0]),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        **offline(folder),
    }
