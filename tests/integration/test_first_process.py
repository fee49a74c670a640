"""The trainer as the first process of a container: the kernel drops signals that such a process does not handle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from finetune_api.exitcodes import ExitCode

PATIENCE_SECONDS = 30.0
IMPORTING = "import finetune_trainer, time; print('begun', flush=True); time.sleep(600)"
"""What `python -m finetune_trainer` does first, and then libraries that take long to import."""


def test_a_stage_that_is_told_to_stop_while_it_imports_ends_at_once() -> None:
    # A user namespace spares the test root's rights.
    command = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child", sys.executable, "-c", IMPORTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            os.kill(child_of(process.pid), signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_SECONDS) == ExitCode.STOPPED
        finally:
            process.kill()


def child_of(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
