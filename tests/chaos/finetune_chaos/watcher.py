"""Watches the namespace all the time and checks every change, so that nothing wrong is only seen when it is over."""

import threading
import time
from collections.abc import Callable

import urllib3

from finetune_api.status import FineTuneJobStatus
from finetune_chaos.kube import Kube, KubeError, Object
from finetune_chaos.rules import contradictions, step_back, two_at_once
from finetune_chaos.view import Pod, owner_of, read_pod, read_status

KINDS = {"finetunejobs": "FineTuneJob", "jobs": "Job", "pods": "Pod"}
WATCH_SECONDS = 6
PAUSE = 0.3


class Watcher:
    """The newest state of every job in a namespace, kept by one thread per kind, and the violations on the way."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self._violations: dict[str, list[str]] = {}
        self._history: dict[str, list[tuple[float, str]]] = {}
        self._change = threading.Condition()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in KINDS]

    def __enter__(self) -> "Watcher":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=2 * WATCH_SECONDS)

    def status(self, job: str) -> FineTuneJobStatus | None:
        """Return the newest status of a job, or None when the job is not there."""
        with self._change:
            item = self._objects["finetunejobs"].get(job)
            return read_status(item) if item else None

    def pods(self, job: str) -> list[Pod]:
        """Return the pods of a job."""
        with self._change:
            return self._pods(job)

    def jobs(self, job: str) -> list[Object]:
        """Return the batch Jobs of a job."""
        with self._change:
            return [item for item in self._objects["jobs"].values() if owner_of(item) == job]

    def violations(self, job: str) -> list[str]:
        """Return what was wrong with a job at any moment, each once."""
        with self._change:
            return list(dict.fromkeys(self._violations.get(job, [])))

    def history(self, job: str) -> list[tuple[float, str]]:
        """Return each change of phase, reason, attempt and pods with its time."""
        with self._change:
            return list(self._history.get(job, []))

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, looking at every change; return whether it does."""
        with self._change:
            return self._change.wait_for(holds, seconds)

    def _follow(self, kind: str) -> None:
        version = ""
        while not self._stopping.is_set():
            try:
                if not version:
                    version = self._list(kind)
                for event in self._kube.watch(kind, version, WATCH_SECONDS):
                    version = self._take(kind, event)
                    if self._stopping.is_set() or not version:
                        break
            except (KubeError, urllib3.exceptions.HTTPError, OSError, ValueError):
                # The server was killed, or forgot the version: what happened meanwhile is seen in a new list.
                version = ""
                time.sleep(PAUSE)

    def _list(self, kind: str) -> str:
        page = self._kube.list_page(kind)
        fresh = {item["metadata"]["name"]: {"kind": KINDS[kind], **item} for item in page["items"]}
        with self._change:
            stale, self._objects[kind] = self._objects[kind], fresh
            for name in stale.keys() | fresh.keys():
                self._check(kind, name, stale.get(name))
            self._change.notify_all()
        return str(page["metadata"]["resourceVersion"])

    def _take(self, kind: str, event: Object) -> str:
        item = event["object"]
        if event["type"] == "ERROR":
            return ""
        name = item["metadata"]["name"]
        with self._change:
            old = self._objects[kind].pop(name, None)
            if event["type"] != "DELETED":
                self._objects[kind][name] = item
            self._check(kind, name, old)
            self._change.notify_all()
        return str(item["metadata"]["resourceVersion"])

    def _check(self, kind: str, name: str, old: Object | None) -> None:
        """Check what changed with an object that was `old`; the lock is held."""
        new = self._objects[kind].get(name)
        present = new or old
        job = owner_of(present) if present else ""
        if job and kind == "finetunejobs":
            self._check_status(job, old, new)
        elif job and kind == "pods":
            self._note(job, f"pod {name} {read_pod(new).phase if new else 'gone'}")
            self._report(job, two_at_once(self._pods(job)))

    def _check_status(self, job: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            self._note(job, "FineTuneJob gone")
            return
        status = read_status(new)
        self._note(job, f"{status.phase} {status.reason} attempt {status.attempt} restarts {status.restarts.total}")
        self._report(job, contradictions(status))
        if old is not None and old["metadata"]["uid"] == new["metadata"]["uid"]:
            self._report(job, step_back(read_status(old), status))

    def _pods(self, job: str) -> list[Pod]:
        return [read_pod(item) for item in self._objects["pods"].values() if owner_of(item) == job]

    def _note(self, job: str, text: str) -> None:
        entries = self._history.setdefault(job, [])
        if not any(entry[1] == text for entry in entries[-6:]):
            entries.append((time.time(), text))

    def _report(self, job: str, found: list[str]) -> None:
        for text in found:
            self._violations.setdefault(job, []).append(text)
            self._note(job, f"VIOLATION {text}")
