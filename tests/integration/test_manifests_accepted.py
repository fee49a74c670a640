"""A real API server takes every manifest: known fields alone, valid Jobs, pods within Pod Security `restricted`."""

import secrets
from dataclasses import replace
from typing import Any

import pytest
from reconcile_builders import SETTINGS, blueprint

from finetune_api.stage import Stage
from finetune_loopback.kube_client import ApiError, KubeApi
from finetune_operator.manifests import build_children
from finetune_operator.manifests.jobs import build_train_job
from finetune_operator.manifests.network_policy import build_network_policy

DISK = {"storageClassName": "nvme", "resources": {"requests": {"storage": "1Ti"}}}
VARIANTS = {
    "plain": {},
    "one node": {"distributed": {"numNodes": 1}},
    "gpu": {"distributed": {"device": "gpu", "processesPerNode": 4}, "training": {"globalBatchSize": 64}},
    "storage": {"storage": {"s3": {"credentialsSecretRef": {"name": "s3"}, "caBundleConfigMapRef": {"name": "ca"}}}},
    "placed": {
        "podTemplate": {
            "labels": {"team": "a"},
            "annotations": {"note": "x"},
            "imagePullSecrets": [{"name": "pull"}],
            "resources": {"requests": {"cpu": "700m"}, "limits": {"memory": "3Gi"}},
            "stageResources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
            "affinity": {"podAffinity": {}},
            "schedulerName": "volcano",
        }
    },
    "whole nodes": {
        "distributed": {"device": "gpu", "processesPerNode": 8},
        "training": {"globalBatchSize": 64},
        "podTemplate": {
            "resources": {"limits": {"rdma/hca_shared": 1, "memory": "64Gi"}},
            "shmSize": "32Gi",
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"topologyKey": "topology.kubernetes.io/zone", "minDomains": 2, "nodeTaintsPolicy": "Honor"}
            ],
        },
    },
    "extended": {
        "podTemplate": {
            "env": [
                {"name": "NCCL_DEBUG", "value": "INFO"},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
                {"name": "PROXY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            ],
            "volumes": [
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
                {"name": "config", "configMap": {"name": "c", "items": [{"key": "a", "path": "x/a", "mode": 292}]}},
                {"name": "token", "secret": {"secretName": "s", "defaultMode": 288, "optional": True}},
                {
                    "name": "disk",
                    "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": DISK}},
                },
                {"name": "driver", "csi": {"driver": "a.b", "readOnly": True, "volumeAttributes": {"a": "b"}}},
            ],
            "volumeMounts": [
                {"name": "claim", "mountPath": "/claim", "subPath": "a/b", "readOnly": True},
                {"name": "memory", "mountPath": "/tmp/.cache/memory"},
                *({"name": name, "mountPath": f"/{name}"} for name in ("config", "token", "disk", "driver")),
            ],
        }
    },
    "text": {"model": {"chatTemplate": "$(HOME) $$ {{ 'è日' }}" * 500}},
}
DRY = {"dryRun": "All", "fieldValidation": "Strict"}


@pytest.fixture(scope="module")
def namespace(kube_api: KubeApi) -> str:
    return kube_api.namespace(f"ml-{secrets.token_hex(4)}", **{"pod-security.kubernetes.io/enforce": "restricted"})


def create_pod(api: KubeApi, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Create a pod as the Job controller does, with the account that a cluster's admission fills in."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    body = {**pod, "spec": {"serviceAccountName": "default", **spec}}
    return api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=body, dryRun="All")


def told(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in container["env"]}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_jobs_and_their_pods_are_accepted(kube_api: KubeApi, namespace: str, variant: str) -> None:
    manifest = build_train_job(blueprint(Stage.TRAIN, 2, **VARIANTS[variant]))
    manifest["metadata"]["namespace"] = namespace
    stored = kube_api.request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", body=manifest, **DRY)
    assert stored["spec"]["podFailurePolicy"]["rules"] == manifest["spec"]["podFailurePolicy"]["rules"]

    accepted = create_pod(kube_api, namespace, stored["spec"]["template"]["spec"])
    ours = manifest["spec"]["template"]["spec"]["containers"][0]
    assert told(accepted["spec"]["containers"][0]) == told(ours)


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_pods_of_stages_are_accepted(kube_api: KubeApi, namespace: str, stage: Stage, variant: str) -> None:
    manifest = build_children(blueprint(stage, 2, **VARIANTS[variant]))[-1]
    manifest["metadata"]["namespace"] = namespace
    accepted = kube_api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body=manifest, **DRY)
    assert told(accepted["spec"]["containers"][0]) == told(manifest["spec"]["containers"][0])


LIFTED: dict[str, dict[str, Any]] = {
    "host network": {"hostNetwork": True},
    "privileged": {"privileged": True},
    "both": {"privileged": True, "capabilities": ["IPC_LOCK"]},
    "capabilities": {"capabilities": ["IPC_LOCK", "SYS_ADMIN"]},
    "host path": {
        "volumes": [{"name": "ib", "hostPath": {"path": "/dev/infiniband", "type": "Directory"}}],
        "volumeMounts": [{"name": "ib", "mountPath": "/dev/infiniband"}],
    },
}


@pytest.mark.parametrize("lifted", list(LIFTED))
def test_what_an_admin_lifts_needs_a_namespace_that_lets_it_in(
    kube_api: KubeApi, namespace: str, lifted: str
) -> None:
    spec = build_train_job(blueprint(podTemplate=LIFTED[lifted]))["spec"]["template"]["spec"]
    with pytest.raises(ApiError, match="restricted"):
        create_pod(kube_api, namespace, spec)

    create_pod(kube_api, kube_api.namespace("ml-open", **{"pod-security.kubernetes.io/enforce": "privileged"}), spec)


@pytest.mark.parametrize("endpoint", ["", "http://s3.example.com", "http://s3.store.svc:8333"])
def test_the_network_policy_is_accepted(kube_api: KubeApi, namespace: str, endpoint: str) -> None:
    settings = replace(SETTINGS, network_policies=True, operator_namespace="ops", network_ports=(3128,))
    manifest = build_network_policy(blueprint(settings=settings, storage={"s3": {"endpoint": endpoint}}))
    manifest["metadata"]["namespace"] = namespace
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    stored = kube_api.request("POST", path, body=manifest, **DRY)
    assert stored["spec"] == manifest["spec"]


def test_the_restricted_level_is_in_force(kube_api: KubeApi, namespace: str) -> None:
    spec = build_train_job(blueprint())["spec"]["template"]["spec"]
    with pytest.raises(ApiError, match="restricted"):
        create_pod(kube_api, namespace, {**spec, "securityContext": {}})
