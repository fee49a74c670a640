"""Follow one job: a line for every change of phase, and its progress in between.

On a terminal the progress line is redrawn in place; elsewhere (a log, a pipe) a new line is printed when the step
has changed. Everything shown comes from `status`, so it is what `kubectl get ftj` shows too.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from kubernetes import client, config, watch

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.reasons import Phase
from finetune_api.status import FineTuneJobStatus, Progress

EXIT_SUCCEEDED, EXIT_FAILED, EXIT_TIMEOUT = 0, 1, 2


def render_progress(progress: Progress) -> str:
    """Return one line: step, share, loss, validation loss, speed, time left; parts not known are left out."""
    parts = [f"step {progress.step}/{progress.total_steps}", f"{progress.percent}%"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.eval_loss is not None:
        parts.append(f"validation {progress.eval_loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    if progress.eta:
        parts.append(f"{progress.eta} left")
    return "  ".join(parts)


def render_phase(status: FineTuneJobStatus) -> str:
    """Return one line: phase, reason and message."""
    words = [str(status.phase)]
    if status.reason and str(status.reason) != str(status.phase):
        words.append(f"({status.reason})")
    return " ".join(words) + (f": {status.message}" if status.message else "")


class Screen:
    """Prints phases as lines and progress in place."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.phase_line = ""
        self.step = -1
        self.drawn = False

    def show(self, status: FineTuneJobStatus) -> None:
        """Print what differs from what was printed last."""
        line = render_phase(status)
        if line != self.phase_line:
            self._print_line(line)
            self.phase_line = line
        if status.phase is Phase.RUNNING and status.progress and status.progress.step != self.step:
            self._draw(render_progress(status.progress))
            self.step = status.progress.step

    def _print_line(self, text: str) -> None:
        self.out.write(("\n" if self.drawn else "") + text + "\n")
        self.drawn = False
        self.out.flush()

    def _draw(self, text: str) -> None:
        if self.out.isatty():
            self.out.write(f"\r\x1b[K  {text}")
            self.drawn = True
        else:
            self.out.write(f"  {text}\n")
        self.out.flush()


def stream_status(*, name: str, namespace: str, timeout: float) -> Iterator[FineTuneJobStatus]:
    """Yield the job's status now and at every change, until `timeout` seconds have passed.

    Raises kubernetes.client.ApiException when the API server refuses (404: no such job).
    """
    config.load_kube_config()
    api = client.CustomObjectsApi()
    where: dict[str, Any] = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        job = api.get_namespaced_custom_object(**where, name=name)
        yield parse_status(job)
        events = watch.Watch().stream(
            api.list_namespaced_custom_object,
            **where,
            field_selector=f"metadata.name={name}",
            resource_version=job["metadata"]["resourceVersion"],
            timeout_seconds=max(1, min(60, int(left))),
        )
        for event in events:
            if event["type"] in ("ADDED", "MODIFIED"):
                yield parse_status(event["object"])


def parse_status(job: dict[str, Any]) -> FineTuneJobStatus:
    """Return the status of a job object; one that no operator has seen yet is Pending."""
    return FineTuneJobStatus.model_validate(job.get("status") or {})


def watch_job(*, name: str, namespace: str, timeout: float, out: TextIO = sys.stdout) -> int:
    """Follow a job until it ends. Returns 0 when it succeeded, 1 when it failed, 2 when time ran out."""
    screen = Screen(out)
    for status in stream_status(name=name, namespace=namespace, timeout=timeout):
        screen.show(status)
        if status.phase.is_terminal:
            return EXIT_SUCCEEDED if status.phase is Phase.SUCCEEDED else EXIT_FAILED
    return EXIT_TIMEOUT
