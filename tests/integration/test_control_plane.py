"""The loopback control plane: the real controllers make, bind, end and collect what the tests then rely on."""

from collections.abc import Iterator
from typing import Any

import pytest

from finetune_loopback.control_plane import ControlPlane, running_control_plane
from finetune_loopback.controller_manager import make_namespace
from finetune_loopback.kube_client import KubeApi

NAMESPACE = "control-plane"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running_control_plane(tmp_path_factory.mktemp("plane"), nodes=2, run_seconds=0.2) as plane:
        make_namespace(plane.api, NAMESPACE)
        yield plane


def plain_job(name: str) -> dict[str, Any]:
    """Return an Indexed Job of two pods."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "image"}]}}
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def await_event(api: KubeApi, path: str, kind: str, **query: str) -> dict[str, Any]:
    """Return the object of the first watch event of that kind."""
    for event in api.watch(path, seconds=60, **query):
        if event["type"] == kind:
            return dict(event["object"])
    raise AssertionError(f"no {kind} of {path} within 60 s")


def test_a_job_runs_to_its_end_and_is_collected(plane: ControlPlane) -> None:
    job = plane.api.request("POST", JOBS, body=plain_job("plain"))
    for event in plane.api.watch(JOBS, seconds=60, fieldSelector="metadata.name=plain"):
        if event["object"]["status"].get("succeeded") == 2:
            break
    pods = plane.api.request("GET", PODS)["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Succeeded", "Succeeded"]
    assert {pod["spec"]["nodeName"] for pod in pods} <= {"node-0", "node-1"}
    ended = [pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in pods]
    assert [one["exitCode"] for one in ended] == [0, 0]
    version = plane.api.request("GET", PODS)["metadata"]["resourceVersion"]
    plane.api.request("DELETE", f"{JOBS}/plain", body={"propagationPolicy": "Background"})
    gone = await_event(plane.api, PODS, "DELETED", resourceVersion=version)
    assert gone["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


def test_nothing_of_it_outlives_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_control_plane(tmp_path_factory.mktemp("short"), nodes=1) as plane:
        processes = (plane.controller_manager, plane.scheduler, plane.kwok)
        assert [process.poll() for process in processes] == [None, None, None]
    assert None not in [process.poll() for process in processes]
