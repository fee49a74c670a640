"""Gangs: the operator finds the schedulers' APIs in a real API server and writes the PodGroup before the pods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_loopback.fixtures import CRDS
from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import grant_chart_rights, running_operator

HOME, WATCHED = "operator-gang", "gang"
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
QUANTITIES = {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True}}
COSCHEDULING = {"minMember": {"type": "integer"}, "minResources": QUANTITIES}
VOLCANO = {**COSCHEDULING, "queue": {"type": "string"}, "priorityClassName": {"type": "string"}}


def crd(group: str, version: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the CRD of a scheduler's PodGroup with the fields that we write; any other is refused."""
    spec = {"type": "object", "properties": fields}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"podgroups.{group}",
            "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/scheduler-plugins/pull/50"
            },
        },
        "spec": {
            "group": group,
            "names": {"kind": "PodGroup", "listKind": "PodGroupList", "plural": "podgroups", "singular": "podgroup"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
                }
            ],
        },
    }


def install(api: KubeApi, group: str, version: str, fields: dict[str, Any]) -> None:
    """Install a PodGroup API and wait until it is served."""
    api.ensure(CRDS, crd(group, version, fields))
    for event in api.watch(CRDS, fieldSelector=f"metadata.name=podgroups.{group}"):
        conditions = event["object"].get("status", {}).get("conditions") or []
        if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return
    raise AssertionError(f"the PodGroup of {group} was not established within 30 s")


@pytest.fixture(scope="module")
def cluster(crd_installed: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace and an operator that was started beside both APIs."""
    install(crd_installed, "scheduling.volcano.sh", "v1beta1", VOLCANO)
    install(crd_installed, "scheduling.x-k8s.io", "v1alpha1", COSCHEDULING)
    for namespace in (HOME, WATCHED):
        crd_installed.namespace(namespace)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    directory: Path = tmp_path_factory.mktemp("operator")
    with running_operator(crd_installed, directory, namespace=HOME, watch=(WATCHED,)) as process:
        yield Namespace(crd_installed, WATCHED)
        print(process.log_text()[-3000:])


def train(cluster: Namespace, name: str, scheduler: str) -> dict[str, Any]:
    """Bring a job to its first training attempt; return the template of its pods."""
    resources = {"requests": {"cpu": "700m", "memory": "1Gi"}}
    template = {"schedulerName": scheduler, "resources": resources}
    cluster.submit(minimal_job(name, podTemplate=template, **TWO_NODES))
    cluster.succeed(f"{name}-prepare", message='{"reason": "Succeeded"}')
    built: dict[str, Any] = cluster.await_job(f"{name}-a1")["spec"]["template"]
    return built


def group(cluster: Namespace, api_version: str, name: str) -> dict[str, Any]:
    return cluster.api.request("GET", f"/apis/{api_version}/namespaces/{WATCHED}/podgroups/{name}")


def test_volcano_gets_its_group_before_the_job(cluster: Namespace) -> None:
    template = train(cluster, "storm", "volcano")

    made = group(cluster, "scheduling.volcano.sh/v1beta1", "storm-a1")
    assert made["spec"] == {
        "minMember": 2,
        "minResources": {"cpu": "1400m", "memory": str(2**31)},
    }
    assert made["metadata"]["ownerReferences"][0]["name"] == "storm"
    assert template["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == "storm-a1"


def test_coscheduling_gets_its_group(cluster: Namespace) -> None:
    template = train(cluster, "gang", "scheduler-plugins")

    made = group(cluster, "scheduling.x-k8s.io/v1alpha1", "gang-a1")
    assert made["spec"] == {"minMember": 2, "minResources": {"cpu": "1400m", "memory": str(2**31)}}
    assert template["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == "gang-a1"


def test_the_default_scheduler_gets_none(cluster: Namespace) -> None:
    template = train(cluster, "plain", "default-scheduler")

    assert "scheduling.x-k8s.io/pod-group" not in template["metadata"]["labels"]
    path = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{WATCHED}/podgroups"
    assert "plain-a1" not in [one["metadata"]["name"] for one in cluster.api.request("GET", path)["items"]]
