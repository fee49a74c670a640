"""The chart installed by helm on a real API server: schema, rights, upgrade, removal."""

import subprocess
from typing import Any

import pytest

from finetune_api import GROUP, PLURAL, VERSION
from finetune_loopback.helm import (
    CHART,
    IMAGES,
    NAMESPACE,
    RELEASE,
    HelmError,
    deploy,
    find,
    helm,
    render,
    render_text,
)
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import ApiError, KubeApi
from finetune_loopback.rights import may
from finetune_loopback.schemas import write_schemas

CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/{RELEASE}-tls"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "namespaces": {"watchNamespaces": ["team-a", "team-b"], "crds": {"install": False}},
    "everything": {
        "image": {"repository": "r/o", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 2,
        "tls": {"existingSecret": "own"},
        "serviceAccount": {"annotations": {"note": "x"}},
        "podLabels": {"team": "ml"},
        "podAnnotations": {"note": "x"},
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "prices": {"currency": "EUR", "gpuHour": {"nvidia.com/gpu": 2.5}},
        "dashboard": {"enabled": True, "labels": {"team": "ml"}, "annotations": {"grafana_folder": "ML"}},
    },
}


@pytest.fixture(scope="session")
def schemas(chart_api: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where kubeconform finds the API server's schemas."""
    return write_schemas(chart_api, tmp_path_factory.mktemp("schemas"))


def kubeconform(schemas: str, manifests: str) -> subprocess.CompletedProcess[str]:
    command = [str(binaries("kubeconform") / "kubeconform"), "-strict", "-summary", "-schema-location", schemas, "-"]
    return subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_kubeconform(schemas: str, values: dict[str, Any]) -> None:
    result = kubeconform(schemas, render_text(values))

    assert result.returncode == 0, result.stdout
    assert "Invalid: 0, Errors: 0, Skipped: 0" in result.stdout


@pytest.mark.parametrize(
    ("good", "bad"),
    [("replicas: 1", "replica: 1"), ("port: 8443", "port: yes"), ("kind: Service\n", "kind: Servic\n")],
)
def test_kubeconform_refuses_a_broken_manifest(schemas: str, good: str, bad: str) -> None:
    assert kubeconform(schemas, render_text().replace(good, bad, 1)).returncode == 1


def test_notes_tell_the_next_commands(release: KubeApi) -> None:
    notes = deploy(release)

    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in notes
    assert "kubectl create secret generic s3" in notes
    assert "serves every namespace" in notes


def test_notes_tell_of_namespaces_and_of_a_crd_that_is_the_users(chart_api: KubeApi, release: KubeApi) -> None:
    notes = deploy(chart_api, VARIANTS["namespaces"])

    assert "serves the namespaces team-a, team-b" in notes
    assert "kubectl apply --server-side -f crds/finetunejobs.yaml" in notes


def test_upgrade_keeps_the_certificate(release: KubeApi) -> None:
    before = release.request("GET", SECRET)["data"]

    deploy(release, {"logLevel": "DEBUG"})

    assert release.request("GET", SECRET)["data"] == before
    (container,) = release.request("GET", DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    assert {"name": "LOG_LEVEL", "value": "DEBUG"} in container["env"]


def test_deleted_certificate_is_made_anew(release: KubeApi) -> None:
    before = release.request("GET", SECRET)["data"]
    release.request("DELETE", SECRET)

    deploy(release)

    assert release.request("GET", SECRET)["data"] != before


def test_crd_serves_jobs(release: KubeApi) -> None:
    path = f"/apis/{GROUP}/{VERSION}/namespaces/team-a/{PLURAL}"

    release.request("POST", path, body=minimal_job(), dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
def test_pod_is_admitted_where_restricted_is_enforced(chart_api: KubeApi, kind: str) -> None:
    chart_api.namespace("restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})
    manifest = find(render(), kind)
    pod = manifest if kind == "Pod" else manifest["spec"]["template"]
    body = {"metadata": {"name": "pod", "labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}

    chart_api.request("POST", "/api/v1/namespaces/restricted/pods", body=body, dryRun="All")


def test_restricted_is_enforced_here(chart_api: KubeApi) -> None:
    chart_api.namespace("restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})
    body = {"metadata": {"name": "pod"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}

    with pytest.raises(ApiError, match="violates PodSecurity"):
        chart_api.request("POST", "/api/v1/namespaces/restricted/pods", body=body, dryRun="All")


def test_removal_keeps_the_crd_and_nothing_else(release: KubeApi) -> None:
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--kubeconfig", release.admin)

    assert release.request("GET", CRD)["metadata"]["name"] == f"{PLURAL}.{GROUP}"
    for path in (SECRET, DEPLOYMENT):
        with pytest.raises(ApiError, match="not found"):
            release.request("GET", path)
    operator = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    assert not may(release, operator, "create", ("batch", "jobs"), namespace="team-a")

    deploy(release)
    assert release.request("GET", DEPLOYMENT)["metadata"]["name"] == RELEASE


def test_second_release_shares_or_takes_over_the_crd(release: KubeApi) -> None:
    place = ("--namespace", "other", "--create-namespace", "--kubeconfig", release.admin)
    helm(
        "install",
        "other",
        CHART,
        *place,
        values={**IMAGES, "crds": {"install": False}, "watchNamespaces": ["team-b"]},
    )

    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        helm("upgrade", "other", CHART, *place, values=IMAGES)
    helm("upgrade", "other", CHART, *place, "--take-ownership", values=IMAGES)
    helm("uninstall", "other", *place[:2], *place[3:])

    assert release.request("GET", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "other"
    helm("upgrade", RELEASE, CHART, "--namespace", NAMESPACE, *place[3:], "--take-ownership", values=IMAGES)
