"""The operator's rights as the API server's authorizer sees them: this table, and nothing else anywhere."""

import itertools
from typing import Any

import pytest

from finetune_api import GROUP, PLURAL
from finetune_loopback.helm import NAMESPACE, RELEASE, deploy
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.rights import Rights, may, own_rights

OPERATOR = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
EVERYWHERE: Rights = {("authentication.k8s.io", "tokenreviews"): {"create"}}
JOBS: Rights = {
    (GROUP, PLURAL): {"get", "list", "watch", "delete"},
    (GROUP, f"{PLURAL}/status"): {"patch"},
    (GROUP, f"{PLURAL}/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("networking.k8s.io", "networkpolicies"): {"get", "create"},
    ("scheduling.volcano.sh", "podgroups"): {"get", "create"},
    ("scheduling.x-k8s.io", "podgroups"): {"get", "create"},
    ("events.k8s.io", "events"): {"create"},
}
LEASE: Rights = {
    ("coordination.k8s.io", "leases"): {"create"},
    ("coordination.k8s.io", f"leases:{RELEASE}"): {"get", "update"},
}
FORBIDDEN = [
    *itertools.product(
        ("get", "list", "watch", "create", "update", "patch", "delete"),
        (
            *(("", kind) for kind in ("secrets", "configmaps", "serviceaccounts", "nodes", "namespaces")),
            *(
                ("", kind)
                for kind in ("pods/exec", "pods/attach", "pods/portforward", "pods/log", "pods/ephemeralcontainers")
            ),
            *(("", kind) for kind in ("persistentvolumeclaims", "persistentvolumes", "serviceaccounts/token")),
            *(("", kind) for kind in ("services", "endpoints")),
            *(("apps", kind) for kind in ("deployments", "daemonsets", "statefulsets")),
            *(
                ("rbac.authorization.k8s.io", kind)
                for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
            ),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
            ("apiextensions.k8s.io", "customresourcedefinitions"),
        ),
    ),
    *itertools.product(
        ("escalate", "bind"), (("rbac.authorization.k8s.io", kind) for kind in ("roles", "clusterroles"))
    ),
    *itertools.product(("impersonate",), (("", kind) for kind in ("users", "groups", "serviceaccounts"))),
    ("use", (GROUP, f"{PLURAL}/privileged")),
    *itertools.product(("create", "update", "patch", "deletecollection"), ((GROUP, PLURAL),)),
    *itertools.product(("update", "patch", "deletecollection"), (("batch", "jobs"), ("", "pods"))),
]


def rights(api: KubeApi, namespace: str) -> Rights:
    return own_rights(api, api.token_for(NAMESPACE, RELEASE), namespace)


def allowed(api: KubeApi, *, namespace: str) -> list[Any]:
    return [(verb, what) for verb, what in FORBIDDEN if may(api, OPERATOR, verb, what, namespace=namespace)]


def test_over_the_whole_cluster(release: KubeApi) -> None:
    for namespace in ("team-a", "team-b", "default", "kube-system"):
        assert rights(release, namespace) == JOBS | EVERYWHERE
    assert rights(release, NAMESPACE) == JOBS | EVERYWHERE | LEASE


def test_in_namespaces_alone(release: KubeApi) -> None:
    deploy(release, {"watchNamespaces": ["team-a"]})

    assert rights(release, "team-a") == JOBS | EVERYWHERE
    assert rights(release, NAMESPACE) == EVERYWHERE | LEASE
    for namespace in ("team-b", "default", "kube-system"):
        assert rights(release, namespace) == EVERYWHERE
    assert not may(release, OPERATOR, "list", (GROUP, PLURAL))
    assert not may(release, OPERATOR, "list", ("", "pods"))


@pytest.mark.parametrize("namespace", ["team-a", NAMESPACE, "kube-system", ""], ids=lambda name: name or "everywhere")
@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["team-a"]}], ids=["cluster", "namespaces"])
def test_what_it_may_never(release: KubeApi, values: dict[str, Any], namespace: str) -> None:
    deploy(release, values)

    assert allowed(release, namespace=namespace) == []


def test_only_the_own_lease_may_be_changed(release: KubeApi) -> None:
    lease = ("coordination.k8s.io", "leases")

    assert may(release, OPERATOR, "update", lease, namespace=NAMESPACE, name=RELEASE)
    assert not may(release, OPERATOR, "update", lease, namespace=NAMESPACE, name="another")
    assert not may(release, OPERATOR, "update", lease, namespace="team-a", name=RELEASE)
