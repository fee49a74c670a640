"""The chart installed by helm on a real API server: schema, rights, upgrade, removal."""

import itertools
import subprocess
from typing import Any

import pytest

from finetune_api import GROUP, PLURAL, VERSION
from finetune_loopback.helm import CHART, IMAGES, NAMESPACE, RELEASE, HelmError, find, helm, render, render_text
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import ApiError, KubeApi
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


def deploy(api: KubeApi, values: dict[str, Any] | None = None) -> str:
    """Install or upgrade the release; return what helm tells the user."""
    place = ("--namespace", NAMESPACE, "--create-namespace", "--kubeconfig", api.admin)
    return helm("upgrade", "--install", RELEASE, CHART, *place, values={**IMAGES, **(values or {})})


@pytest.fixture
def release(chart_api: KubeApi) -> KubeApi:
    """The API server with the release in its default form."""
    for namespace in ("team-a", "team-b"):
        chart_api.namespace(namespace)
    deploy(chart_api)
    return chart_api


def may(api: KubeApi, verb: str, group: str, resource: str, *, namespace: str = "team-a", name: str = "") -> bool:
    """Whether the operator's service account may do it."""
    resource, _, subresource = resource.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    user = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    spec = {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes}
    review = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body={"spec": spec})
    return bool(review["status"]["allowed"])


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


def test_operator_may_not(release: KubeApi) -> None:
    resources = ("secrets", "configmaps", "serviceaccounts", "pods/exec", "pods/log", "nodes")
    asked = itertools.product(("get", "list", "create", "delete"), resources, ("team-a", NAMESPACE, "default"))

    granted = [(verb, what, where) for verb, what, where in asked if may(release, verb, "", what, namespace=where)]

    assert granted == []


def test_operator_may_in_every_namespace(release: KubeApi) -> None:
    for namespace in ("team-a", "team-b", "default"):
        assert may(release, "create", "batch", "jobs", namespace=namespace)
        assert may(release, "patch", GROUP, f"{PLURAL}/status", namespace=namespace)
        assert not may(release, "patch", GROUP, PLURAL, namespace=namespace)
    assert may(release, "create", "authentication.k8s.io", "tokenreviews", namespace="")


def test_operator_may_hold_its_own_lease_alone(release: KubeApi) -> None:
    lease = {"namespace": NAMESPACE, "group": "coordination.k8s.io", "resource": "leases"}

    assert may(release, "update", **lease, name=RELEASE)
    assert not may(release, "update", **lease, name="another")
    assert not may(release, "update", **{**lease, "namespace": "team-a"}, name=RELEASE)


def test_namespaced_operator_may_in_its_namespaces_alone(release: KubeApi) -> None:
    deploy(release, {"watchNamespaces": ["team-a"]})

    assert may(release, "create", "batch", "jobs", namespace="team-a")
    assert not may(release, "create", "batch", "jobs", namespace="team-b")
    assert not may(release, "list", GROUP, PLURAL, namespace="")
    assert may(release, "create", "authentication.k8s.io", "tokenreviews", namespace="")


def test_removal_keeps_the_crd_and_nothing_else(release: KubeApi) -> None:
    helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--kubeconfig", release.admin)

    assert release.request("GET", CRD)["metadata"]["name"] == f"{PLURAL}.{GROUP}"
    for path in (SECRET, DEPLOYMENT):
        with pytest.raises(ApiError, match="not found"):
            release.request("GET", path)
    assert not may(release, "create", "batch", "jobs")

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
