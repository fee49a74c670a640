"""Everything around the operator, played for one life after the other's script: Job controller, scheduler, kubelet,
garbage collector, Kueue and the user.

An actor looks at one namespace, does the first thing that is due, waits until the watches have told it, and looks
again. It decides from what it sees alone, like the controllers it stands for, so it does the same whether or not the
operator was away in between.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from crash_feed import Feed, Object

from finetune_loopback.kube_client import MERGE
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD, Kind
from finetune_operator.manifests.names import ATTEMPT_LABEL, STAGE_LABEL
from finetune_operator.records import INDEX_LABEL, JOB_NAME_LABEL

NODES = ("node-0", "node-1")
AT_ONCE = {"gracePeriodSeconds": 0}


@dataclass(frozen=True)
class End:
    """How a pod's container ends."""

    code: int = 0
    reason: str = "Succeeded"
    """The stage's own reason, in its termination message."""
    more: dict[str, Any] = field(default_factory=dict)
    """Other parts of its termination message."""
    disruption: str = ""
    """Reason of the condition DisruptionTarget, if the pod bears one."""


def _checkpoint(step: int) -> dict[str, Any]:
    commit = {"uri": f"s3://runs/job/{step}", "step": step, "time": "2026-01-01T00:00:00Z", "sizeBytes": 1}
    return {"lastCheckpoint": commit}


DONE = End()
TRAINED = End(more=_checkpoint(10))
STOPPED = End(75, "Stopped", _checkpoint(7))
"""The word of a deleted pod is lost if nobody looks before it is gone; the next attempt tells a newer one."""


@dataclass(frozen=True)
class Place:
    """Which pod it is."""

    stage: str
    attempt: int
    index: int


def go_well(place: Place) -> End:
    """Return the end of a pod that does what it is there for."""
    return TRAINED if place.stage == "train" else DONE


@dataclass(frozen=True)
class Deed:
    """Something that happens once from outside, as soon as `when` holds."""

    when: Callable[["Actor"], bool]
    do: Callable[["Actor"], Awaitable[object]]


@dataclass(frozen=True, eq=False)
class Life:
    """The script of one FineTuneJob."""

    name: str
    ends_as: str
    """Phase at the end, or Gone."""
    spec: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    end: Callable[[Place], End | None] = go_well
    """How each pod ends by itself; None: it runs on."""
    deeds: tuple[Deed, ...] = ()
    is_cut_off: Callable[[Place], bool] = lambda _: False
    """Whether the pod's kubelet has stopped answering, once the pod is to be deleted."""
    speaks: bool = False
    """Whether rank 0 posts a sample until one is shown."""


class Actor:
    """Plays the world of one life."""

    def __init__(self, feed: Feed, life: Life, *, namespace: str, name: str = "tune") -> None:
        self.feed, self.life, self.namespace, self.name = feed, life, namespace, name
        self.violations: list[str] = []
        self._changed = asyncio.Event()
        self._changed.set()
        self._acting = False
        self._done: set[int] = set()
        self._staffed: set[str] = set()
        feed.listeners.append(self._notice)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is due."""
        return not self._acting and not self._changed.is_set()

    @property
    def tune(self) -> Object | None:
        """The FineTuneJob."""
        return next(iter(self.feed.of(FINE_TUNE_JOB, self.namespace)), None)

    @property
    def status(self) -> Object:
        """Its status."""
        return (self.tune or {}).get("status") or {}

    @property
    def jobs(self) -> list[Object]:
        """The Jobs in the namespace."""
        return self.feed.of(JOB, self.namespace)

    @property
    def pods(self) -> list[Object]:
        """The pods in the namespace."""
        return self.feed.of(POD, self.namespace)

    async def play(self) -> None:
        """Act for ever."""
        while True:
            self._acting = True
            self._changed.clear()
            acted = await self._act()
            while acted and not self.feed.has_told(self.namespace):
                await asyncio.wait_for(self._changed.wait(), 30)
                self._changed.clear()
            if not acted:
                self._acting = False
                await self._changed.wait()

    def leave(self) -> None:
        """Hear nothing any more."""
        self.feed.listeners.remove(self._notice)

    async def set_spec(self, **changes: Any) -> None:
        """Edit the FineTuneJob's spec, as a user would."""
        body = {"spec": changes}
        await self.feed.write("PATCH", FINE_TUNE_JOB, self.namespace, self.name, body, content_type=MERGE)

    async def delete(self, kind: Kind, name: str, body: Object | None = None) -> None:
        """Delete an object."""
        await self.feed.write("DELETE", kind, self.namespace, name, body)

    async def edit(self, kind: Kind, name: str, body: Object, *, subresource: str = "") -> None:
        """Merge into an object."""
        await self.feed.write("PATCH", kind, self.namespace, name, body, content_type=MERGE, subresource=subresource)

    def _notice(self, kind: Kind, change: str, raw: Object) -> None:
        if raw["metadata"]["namespace"] != self.namespace:
            return
        self._changed.set()
        if kind is JOB and change == "ADDED":
            alive = [pod["metadata"]["name"] for pod in self.pods if not is_over(pod)]
            if alive:
                self.violations.append(f"Job {raw['metadata']['name']} was created while {alive} live")

    async def _act(self) -> bool:
        """Do the first thing that is due; return whether there was one."""
        for due in (self._collect(), self._deeds(), self._control(), self._run_pods()):
            for act in due:
                await act
                return True
        return False

    def _collect(self) -> Iterator[Awaitable[object]]:
        """Delete what has lost its owner; let Jobs go that wait for their pods."""
        owners = [*self.jobs, *([self.tune] if self.tune else [])]
        alive = {one["metadata"]["uid"] for one in owners}
        leaving = {job["metadata"]["uid"] for job in self.jobs if is_leaving(job)}
        for kind, child in [*((JOB, job) for job in self.jobs), *((POD, pod) for pod in self.pods)]:
            owner = owner_of(child)
            if not is_leaving(child) and (owner not in alive or owner in leaving):
                yield self.delete(kind, child["metadata"]["name"])
        for job in self.jobs:
            if is_leaving(job) and not self._pods_of(job):
                yield self.edit(JOB, job["metadata"]["name"], {"metadata": {"finalizers": None}})

    def _deeds(self) -> Iterator[Awaitable[object]]:
        for number, deed in enumerate(self.life.deeds):
            if number not in self._done and deed.when(self):
                self._done.add(number)
                yield deed.do(self)

    def _control(self) -> Iterator[Awaitable[object]]:
        """Be the Job controller."""
        for job in self.jobs:
            pods = self._pods_of(job)
            live = [pod for pod in pods if not is_over(pod)]
            if is_leaving(job) or condition(job, "Complete") or condition(job, "Failed"):
                continue
            if job["spec"].get("suspend"):
                yield from (self.delete(POD, pod["metadata"]["name"]) for pod in live if not is_leaving(pod))
            elif job["metadata"]["uid"] not in self._staffed:
                self._staffed.add(job["metadata"]["uid"])
                yield self._staff(job)
            elif condition(job, "FailureTarget"):
                yield from (self.delete(POD, pod["metadata"]["name"]) for pod in live if not is_leaving(pod))
                if not live:
                    yield self._conclude(job, "Failed")
            elif any(pod["status"]["phase"] == "Failed" for pod in pods):
                yield self._conclude(job, "FailureTarget")
            elif pods and all(pod["status"]["phase"] == "Succeeded" for pod in pods):
                yield self._conclude(job, "Complete")

    def _run_pods(self) -> Iterator[Awaitable[object]]:
        """Be scheduler and kubelet."""
        for pod in self.pods:
            name, place = pod["metadata"]["name"], place_of(pod)
            if is_leaving(pod):
                if self.life.is_cut_off(place):
                    continue
                yield self.delete(POD, name, AT_ONCE) if is_over(pod) else self._end(pod, STOPPED)
            elif is_over(pod):
                continue
            elif not pod["spec"].get("nodeName"):
                yield self._bind(name)
            elif pod["status"]["phase"] == "Pending":
                yield self._begin(pod)
            elif (end := self.life.end(place)) is not None:
                yield self._end(pod, end)

    def _pods_of(self, job: Object) -> list[Object]:
        return [pod for pod in self.pods if owner_of(pod) == job["metadata"]["uid"]]

    async def _staff(self, job: Object) -> None:
        await self.edit(JOB, job["metadata"]["name"], {"status": {"startTime": now()}}, subresource="/status")
        for index in range(job["spec"]["completions"]):
            await self.feed.write("POST", POD, self.namespace, body=_pod(job, index))

    async def _conclude(self, job: Object, kind: str) -> None:
        phases = [pod["status"]["phase"] for pod in self._pods_of(job)]
        before = job["status"].get("conditions") or []
        failed = max(phases.count("Failed"), job["status"].get("failed") or 0)  # a deleted pod stays counted
        kinds = ("SuccessCriteriaMet", "Complete") if kind == "Complete" else (kind,)
        added = [{"type": one, "status": "True", "reason": "Played", "lastTransitionTime": now()} for one in kinds]
        status = {
            "active": phases.count("Running") + phases.count("Pending"),
            "succeeded": phases.count("Succeeded"),
            "failed": failed,
            "conditions": before + added,
            **({"completionTime": now()} if kind == "Complete" else {}),
        }
        await self.edit(JOB, job["metadata"]["name"], {"status": status}, subresource="/status")

    async def _bind(self, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": NODES[0]}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await self.feed.call("POST", f"{POD.path(self.namespace, name)}/binding", body)
        bound = await self.feed.call("GET", POD.path(self.namespace, name))
        self.feed.owe(bound, namespace=self.namespace)

    async def _begin(self, pod: Object) -> None:
        state = {"running": {"startedAt": now()}}
        status = {"phase": "Running", "startTime": now(), "containerStatuses": [_container(pod, state)]}
        await self.edit(POD, pod["metadata"]["name"], {"status": status}, subresource="/status")

    async def _end(self, pod: Object, end: End) -> None:
        message = json.dumps({"reason": end.reason, "message": f"played: {end.reason}", **end.more})
        state = {"exitCode": end.code, "reason": "Error" if end.code else "Completed", "message": message}
        ended = {"terminated": {**state, "startedAt": now(), "finishedAt": now()}}
        status: Object = {"phase": "Failed" if end.code else "Succeeded"}
        status["containerStatuses"] = [_container(pod, ended)]
        if end.disruption:
            status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": end.disruption}]
        await self.edit(POD, pod["metadata"]["name"], {"status": status}, subresource="/status")


def place_of(pod: Object) -> Place:
    """Return which pod of the life it is."""
    labels = pod["metadata"]["labels"]
    return Place(labels[STAGE_LABEL], int(labels[ATTEMPT_LABEL]), int(labels.get(INDEX_LABEL, 0)))


def is_over(pod: Object) -> bool:
    """Whether the pod's containers have ended."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_leaving(one: Object) -> bool:
    """Whether the object is being deleted."""
    return "deletionTimestamp" in one["metadata"]


def owner_of(child: Object) -> str:
    """Return the uid of the controlling owner."""
    return str(child["metadata"]["ownerReferences"][0]["uid"])


def condition(job: Object, kind: str) -> bool:
    """Whether the Job bears the condition."""
    return any(one["type"] == kind for one in job["status"].get("conditions") or ())


def now() -> str:
    """Return the time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _container(pod: Object, state: Object) -> Object:
    image = pod["spec"]["containers"][0]["image"]
    is_ready = "running" in state
    return {"name": "trainer", "image": image, "imageID": "", "ready": is_ready, "restartCount": 0, "state": state}


def _pod(job: Object, index: int) -> Object:
    meta, template = job["metadata"], job["spec"]["template"]
    labels = {**template["metadata"]["labels"], JOB_NAME_LABEL: meta["name"], INDEX_LABEL: str(index)}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    reference = {**owner, "controller": True, "blockOwnerDeletion": True}
    name = f"{meta['name']}-{index}-{meta['uid'][:5]}"
    spec = {"serviceAccountName": "default", **template["spec"], "nodeName": NODES[index]}
    return {"metadata": {"name": name, "labels": labels, "ownerReferences": [reference]}, "spec": spec}
