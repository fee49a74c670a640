"""The scratch folder of a run."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_harness.errors import BenchError


@contextmanager
def scratch(prefix: str, failures: type[Exception] | tuple[type[Exception], ...] = BenchError) -> Iterator[Path]:
    """Yield a folder that is removed after a good run and kept, for its logs, after one that failed so."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield directory
    except failures as error:
        raise BenchError(f"{error}\nThe logs are in {directory}") from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
