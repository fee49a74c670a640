"""One contender in a process of its own: `python -m trainer_bench.child ROLE TASK.json`."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from trainer_bench.task import Task
from trainer_bench.turns import Turns

ROLES = {
    "rows": "trainer_bench.rows:main",
    "ours": "trainer_bench.ours:main",
    "trl_packed": "trainer_bench.peer:main_packed",
    "trl_default": "trainer_bench.peer:main_default",
    "reference": "trainer_bench.reference:main",
    "overhead": "trainer_bench.overhead:main",
}
"""Functions of (task, turns); imported when run, since each needs other libraries."""


def main(role: str, path: Path) -> NoReturn:
    """Run a contender to its end."""
    turns = Turns()
    module, _, name = ROLES[role].partition(":")
    contend: Callable[[Task, Turns], None] = getattr(import_module(module), name)
    contend(Task.from_json(path.read_text()), turns)
    sys.stderr.flush()
    os._exit(0)  # not by way of threads and process groups that would only be ended


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
