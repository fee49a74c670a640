"""Plays what a loopback API server lacks: Job controller, scheduler, kubelet and garbage collector, step by step.

A stage is a Job of pods (training) or one pod that the operator made itself (prepare, export); both are named alike
here, by the name of the child.

A test says what happens ("the pods start", "pod 1 is killed for lack of memory"); this writes the same objects and
statuses that the real ones would, so that the operator sees nothing else.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from finetune_api import API_VERSION, PLURAL
from finetune_loopback.kube_client import MERGE, ApiError, KubeApi

Object = dict[str, Any]
BACKGROUND = {"propagationPolicy": "Background"}
Found = TypeVar("Found")
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.05
STAGE_POD = re.compile(r"-(prepare|export)(-\d+)?$")


class Namespace:
    """One namespace of a loopback cluster and everything that moves in it."""

    def __init__(self, api: KubeApi, name: str) -> None:
        self.api = api
        self.name = name

    def submit(self, job: Object) -> Object:
        """Create a FineTuneJob."""
        return self.api.request("POST", self._tunes(), body=job)

    def tune(self, name: str) -> Object:
        """Return a FineTuneJob."""
        return self.api.request("GET", f"{self._tunes()}/{name}")

    def delete_tune(self, name: str) -> None:
        """Delete a FineTuneJob and, as the garbage collector would, everything below it."""
        uid = self.tune(name)["metadata"]["uid"]
        self.api.request("DELETE", f"{self._tunes()}/{name}")
        for collection in (self._jobs(), self._policies()):
            for child in self.api.request("GET", collection)["items"]:
                if any(owner["uid"] == uid for owner in child["metadata"].get("ownerReferences", [])):
                    self.api.request("DELETE", f"{collection}/{child['metadata']['name']}", body=BACKGROUND)
        self.collect()

    def jobs(self) -> dict[str, Object]:
        """Return the batch/v1 Jobs by name."""
        return {job["metadata"]["name"]: job for job in self.api.request("GET", self._jobs())["items"]}

    def pods(self) -> dict[str, Object]:
        """Return the pods by name."""
        return {pod["metadata"]["name"]: pod for pod in self.api.request("GET", self._pods())["items"]}

    def events(self, name: str) -> list[tuple[str, str]]:
        """Return (type, reason) of the Events about a FineTuneJob, oldest first."""
        items = self.api.request("GET", f"/apis/events.k8s.io/v1/namespaces/{self.name}/events")["items"]
        ours = [one for one in items if one["regarding"]["name"] == name]
        return [(one["type"], one["reason"]) for one in sorted(ours, key=lambda one: one["eventTime"])]

    def await_job(self, name: str, *, seconds: float = PATIENCE_SECONDS) -> Object:
        """Return the batch/v1 Job once it exists."""
        state = lambda: sorted(self.jobs())  # noqa: E731 - one expression
        return _await(lambda: self.jobs().get(name), what=f"Job {name}", state=state, seconds=seconds)

    def await_status(
        self, name: str, test: Callable[[Object], object], *, seconds: float = PATIENCE_SECONDS
    ) -> Object:
        """Return the FineTuneJob's status once the test holds for it."""

        def found() -> Object | None:
            status = self.tune(name).get("status", {})
            return status if test(status) else None

        state = lambda: self.tune(name).get("status")  # noqa: E731 - one expression
        return _await(found, what=f"the status of {name}", state=state, seconds=seconds)

    def await_gone(self, holds: Callable[[], object]) -> None:
        """Return once `holds()` is no longer true."""
        _await(lambda: not holds(), what="the end of a state", state=holds)

    def await_phase(self, name: str, phase: str, *, seconds: float = PATIENCE_SECONDS) -> Object:
        """Return the FineTuneJob's status once it is in that phase."""
        return self.await_status(name, lambda status: status.get("phase") == phase, seconds=seconds)

    def await_pod(self, name: str, *, seconds: float = PATIENCE_SECONDS) -> Object:
        """Return the pod of a stage once it exists."""
        state = lambda: sorted(self.pods())  # noqa: E731 - one expression
        return _await(lambda: self.pods().get(name), what=f"pod {name}", state=state, seconds=seconds)

    def start(self, name: str, *, run: bool = True, node: str = "node-1") -> list[Object]:
        """Wait for a child and return its pods on a node, running at once if asked."""
        if STAGE_POD.search(name) is None:
            return self._start_job(name, run=run, node=node)
        pod = self.await_pod(name)
        self.bind_pod(pod, node=node)
        if run:
            self.run_pod(pod)
        return [pod]

    def bind_pod(self, pod: Object, *, node: str = "node-1") -> None:
        """Give a pod its node, as the scheduler would."""
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        self.api.request("POST", f"{self._pods()}/{name}/binding", body=body)

    def _start_job(self, name: str, *, run: bool, node: str) -> list[Object]:
        job = self.await_job(name)
        self._job_status(job, {"startTime": _now(), "active": job["spec"]["completions"], "ready": 0})
        pods = [self._make_pod(job, index, node=node) for index in range(job["spec"]["completions"])]
        if run:
            for pod in pods:
                self.run_pod(pod)
        return pods

    def run_pod(self, pod: Object) -> None:
        """Let a pod's container run."""
        state = {"running": {"startedAt": _now()}}
        self.pod_status(pod, {"phase": "Running", "containerStatuses": [_container(pod, state, ready=True)]})

    def wait_pod(self, pod: Object, *, reason: str, message: str) -> None:
        """Let a pod's container wait."""
        state = {"waiting": {"reason": reason, "message": message}}
        self.pod_status(pod, {"phase": "Pending", "containerStatuses": [_container(pod, state)]})

    def end_pod(self, pod: Object, *, code: int = 0, reason: str = "", message: str = "", **status: Any) -> None:
        """Let a pod's container end with an exit code and a termination message."""
        ended = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
        state = {"terminated": {**ended, "startedAt": _now(), "finishedAt": _now()}}
        phase = "Failed" if code else "Succeeded"
        self.pod_status(pod, {"phase": phase, "containerStatuses": [_container(pod, state)], **status})

    def complete(self, name: str) -> None:
        """Say that a child has succeeded; of a stage's pod its own end says so."""
        if STAGE_POD.search(name):
            return
        self._finish(name, ("SuccessCriteriaMet", "Complete"), reason="CompletionsReached", message="")

    def fail(self, name: str, *, reason: str = "PodFailurePolicy", message: str = "a pod failed") -> None:
        """Say that a child has failed; of a stage's pod its own end says so."""
        if STAGE_POD.search(name):
            return
        self._finish(name, ("FailureTarget", "Failed"), reason=reason, message=message)

    def succeed(self, name: str, *, message: str = "", node: str = "node-1") -> None:
        """Run a child to its good end; `message` is the termination message of pod 0."""
        pods = self.start(name, node=node)
        for index, pod in enumerate(pods):
            self.end_pod(pod, message=message if index == 0 else "")
        self.complete(name)

    def remove_pod(self, pod: Object) -> None:
        """Delete a pod at once."""
        path = f"{self._pods()}/{pod['metadata']['name']}"
        self.api.request("DELETE", path, body={"gracePeriodSeconds": 0})

    def delete_job(self, name: str) -> None:
        """Delete a batch/v1 Job, as a user would."""
        self.api.request("DELETE", f"{self._jobs()}/{name}", body=BACKGROUND)

    def collect(self) -> None:
        """Delete what has no owner any more, as the garbage collector would, and Jobs that wait for their pods."""
        jobs = self.jobs()
        leaving = [job for job in jobs.values() if job["metadata"].get("deletionTimestamp")]
        tunes = self.api.request("GET", self._tunes())["items"]
        alive = {one["metadata"]["uid"] for one in (*jobs.values(), *tunes) if one not in leaving}
        for pod in self.pods().values():
            if pod["metadata"]["ownerReferences"][0]["uid"] not in alive or "deletionTimestamp" in pod["metadata"]:
                self.remove_pod(pod)
        for job in leaving:
            path = f"{self._jobs()}/{job['metadata']['name']}"
            self.api.request("PATCH", path, body={"metadata": {"finalizers": None}}, content_type=MERGE)

    def pod_status(self, pod: Object, status: Object) -> None:
        """Merge into a pod's status."""
        path = f"{self._pods()}/{pod['metadata']['name']}/status"
        self.api.request("PATCH", path, body={"status": status}, content_type=MERGE)

    def _make_pod(self, job: Object, index: int, *, node: str) -> Object:
        meta, template = job["metadata"], job["spec"]["template"]
        labels = {
            **template["metadata"]["labels"],
            "batch.kubernetes.io/job-name": meta["name"],
            "batch.kubernetes.io/controller-uid": meta["uid"],
        }
        if job["spec"].get("completionMode") == "Indexed":
            labels["batch.kubernetes.io/job-completion-index"] = str(index)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        spec = {"serviceAccountName": "default", **template["spec"], **({"nodeName": node} if node else {})}
        body = {
            "metadata": {
                "generateName": f"{meta['name']}-{index}-",
                "labels": labels,
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": spec,
        }
        return self.api.request("POST", self._pods(), body=body)

    def _finish(self, name: str, kinds: tuple[str, str], *, reason: str, message: str) -> None:
        job = self.jobs()[name]
        pods = [pod for pod in self.pods().values() if pod["metadata"]["ownerReferences"][0]["name"] == name]
        phases = [pod["status"]["phase"] for pod in pods]
        now = _now()
        common = {"status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        status: Object = {
            "startTime": job["status"].get("startTime") or now,
            "active": 0,
            "ready": 0,
            "succeeded": phases.count("Succeeded"),
            "failed": len(phases) - phases.count("Succeeded"),
            "conditions": [{"type": kind, "lastProbeTime": now, **common} for kind in kinds],
        }
        self._job_status(job, {**status, "completionTime": now} if "Complete" in kinds else status)

    def _job_status(self, job: Object, status: Object) -> None:
        path = f"{self._jobs()}/{job['metadata']['name']}/status"
        self.api.request("PATCH", path, body={"status": status}, content_type=MERGE)

    def _tunes(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.name}/{PLURAL}"

    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.name}/jobs"

    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.name}/pods"

    def _policies(self) -> str:
        return f"/apis/networking.k8s.io/v1/namespaces/{self.name}/networkpolicies"


def _container(pod: Object, state: Object, *, ready: bool = False) -> Object:
    image = pod["spec"]["containers"][0]["image"]
    return {"name": "trainer", "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}


def _await(
    found: Callable[[], Found | None], *, what: str, state: Callable[[], Any], seconds: float = PATIENCE_SECONDS
) -> Found:
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = found()
        except ApiError as error:
            if error.code != 404:
                raise
            result = None
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come in {seconds:.0f} s; there is {state()}")
        time.sleep(LOOK_SECONDS)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
