"""One contender in a process of its own: `python -m data_bench.child ROLE TASK.json`; it ends in one line of JSON."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from data_bench.task import Task


def main(role: str, path: Path) -> None:
    """Encode the rows of a task; say what came of it and how long it took, imports included."""
    began = time.perf_counter()
    result = import_module(f"data_bench.{role}").encode(Task.load(path))
    print(json.dumps({"wall_s": time.perf_counter() - began, **result}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
