"""kwok beside a loopback API server: nodes and pods that are alive in the API only.

A pod that is bound runs at once and, after `run_seconds`, ends with exit code 0; a pod that is deleted goes at once.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.probes import answers
from finetune_loopback.processes import ServerError, await_ready, free_ports, server

Object = dict[str, Any]
START_SECONDS = 60
NODE_LEASE_SECONDS = 40
PARALLEL_STAGES = 16
"""Pods whose state kwok changes at the same time; its default of 4 would be what is measured."""
ALIVE = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
RUNNING = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
{{ range $type := (list "Initialized" "Ready" "ContainersReady") }}
- {type: {{ $type | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  restartCount: 0
  state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""
SUCCEEDED = """
{{ $now := Now }}
{{ $started := .status.startTime }}
phase: Succeeded
conditions:
{{ range $type := (list "Ready" "ContainersReady") }}
- {type: {{ $type | Quote }}, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      {exitCode: 0, reason: Completed, startedAt: {{ $started | Quote }}, finishedAt: {{ $now | Quote }}}
{{ end }}
"""


@contextlib.contextmanager
def running_kwok(
    api: KubeApi, directory: Path, *, run_seconds: float | None = 1.0
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run kwok for every node; with `run_seconds` None a running pod runs until somebody ends it."""
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    config = directory / "kwok.yaml"
    config.write_text(yaml.safe_dump_all([_options(), *pod_stages(run_seconds)]))
    command: list[str | Path] = [
        binaries("kwok") / "kwok",
        f"--kubeconfig={api.component('kwok')}",
        f"--config={config}",
    ]
    command += ["--manage-all-nodes", f"--server-address=127.0.0.1:{port}"]
    log = directory / "kwok.log"
    with server(command, log=log) as process:
        await_ready(process, lambda: answers(f"http://127.0.0.1:{port}/healthz"), log=log, seconds=START_SECONDS)
        yield process


def make_nodes(api: KubeApi, count: int, *, seconds: float = START_SECONDS) -> None:
    """Create nodes that have room for thousands of pods, and wait until pods may go there.

    Raises ServerError when kwok or the controller manager does not make them ready in time.
    """
    room = {"cpu": "1k", "memory": "8Ti", "pods": "10k"}
    for number in range(count):
        meta = {"name": f"node-{number}", "labels": {"kubernetes.io/hostname": f"node-{number}"}}
        api.ensure("/api/v1/nodes", {"metadata": meta, "status": {"allocatable": room, "capacity": room}})
    deadline = time.monotonic() + seconds
    while not all(map(_is_open, api.request("GET", "/api/v1/nodes")["items"])):
        if time.monotonic() > deadline:
            raise ServerError(f"the nodes are not ready after {seconds:g} s")
        time.sleep(0.2)


def pod_stages(run_seconds: float | None) -> list[Object]:
    """Return the states of a pod as kwok's Stage objects."""
    gone = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    stages = [
        _stage("pod-runs", [ALIVE, _phase_is("Pending")], {"statusTemplate": RUNNING}),
        _stage("pod-goes", [gone], {"finalizers": {"empty": True}, "delete": True}),
    ]
    if run_seconds is not None:
        succeeds = _stage("pod-succeeds", [ALIVE, _phase_is("Running")], {"statusTemplate": SUCCEEDED})
        succeeds["spec"]["delay"] = {"durationMilliseconds": round(run_seconds * 1000)}
        stages.append(succeeds)
    return stages


def _stage(name: str, matches: list[Object], following: Object) -> Object:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": matches},
            "next": following,
        },
    }


def _phase_is(phase: str) -> Object:
    return {"key": ".status.phase", "operator": "In", "values": [phase]}


def _options() -> Object:
    options = {
        "cidr": "10.64.0.1/10",
        "nodeIP": "127.0.0.1",
        "nodeLeaseDurationSeconds": NODE_LEASE_SECONDS,
        "podPlayStageParallelism": PARALLEL_STAGES,
        "nodePlayStageParallelism": PARALLEL_STAGES,
    }
    return {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}


def _is_open(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not node["spec"].get("taints")
