"""Training pods as processes: `python -m finetune_trainer train` with the environment that the operator gives."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_api.stage import StageInput, TerminationMessage

Event = dict[str, Any]


class TrainPod:
    """One pod of the training stage, with a scratch space of its own; `wrap` is a command that runs a command."""

    def __init__(
        self,
        job: StageInput,
        work_dir: Path,
        *,
        index: int = 0,
        attempt: int = 1,
        wrap: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.events: list[Event] = []
        self._change = threading.Condition()
        self._ended = False
        self._termination = work_dir.with_name(f"{work_dir.name}-termination.json")
        work_dir.mkdir(parents=True)
        self.process = subprocess.Popen(
            [*wrap, sys.executable, "-m", "finetune_trainer", "train"],
            env={
                **os.environ,
                "FINETUNE_JOB": job.model_copy(update={"attempt": attempt}).model_dump_json(by_alias=True),
                "FINETUNE_WORK_DIR": str(work_dir),
                "FINETUNE_TERMINATION_LOG": str(self._termination),
                "FINETUNE_POD_UID": str(uuid.uuid4()),
                "JOB_COMPLETION_INDEX": str(index),
                "OMP_NUM_THREADS": "1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line) if line.startswith('{"time"') else {"event": "text", "text": line.rstrip()}
            with self._change:
                self.events.append(event)
                self._change.notify_all()
        with self._change:
            self._ended = True
            self._change.notify_all()

    def wait_for(
        self, event: str, matches: Callable[[Event], bool] = lambda event: True, timeout: float = 400
    ) -> Event:
        """Return the first event of a name that matches; fails when the pod ends without one."""
        found: list[Event] = []

        def there() -> bool:
            found[:] = [item for item in self.events if item["event"] == event and matches(item)]
            return bool(found) or self._ended

        with self._change:
            self._change.wait_for(there, timeout)
        assert found, f"no {event}:\n{self.text()}"
        return found[0]

    def end(self, timeout: float = 400) -> int:
        """Wait for the pod's end and return its exit code."""
        code = self.process.wait(timeout)
        with self._change:
            self._change.wait_for(lambda: self._ended, 10)
        return code

    def workers(self) -> list[int]:
        """Return the process ids of the workers, in the order of their ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self) -> None:
        """Send SIGTERM, as the kubelet does."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the pod at once, whatever it does."""
        if self.process.poll() is None:
            for pid in self.workers():
                os.kill(pid, signal.SIGKILL)
            self.process.kill()

    def last_word(self) -> TerminationMessage:
        """Return the termination message."""
        return TerminationMessage.model_validate_json(self._termination.read_bytes())

    def steps(self) -> dict[int, Event]:
        """Return the logged steps."""
        return {event["step"]: event for event in self.events if event["event"] == "step"}

    def text(self) -> str:
        """Return the end of the log, for a failed assertion."""
        return "\n".join(json.dumps(event) for event in self.events[-60:])
