"""The operator's rights: exactly those of this table, and none over Secrets or ConfigMaps."""

from typing import Any

import pytest

from finetune_loopback.helm import NAMESPACE, RELEASE, find, render

JOB_RIGHTS = {
    ("finetune-operator.io", "finetunejobs"): {"get", "list", "watch", "delete"},
    ("finetune-operator.io", "finetunejobs/status"): {"patch"},
    ("finetune-operator.io", "finetunejobs/finalizers"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("networking.k8s.io", "networkpolicies"): {"get", "create"},
    ("scheduling.volcano.sh", "podgroups"): {"get", "create"},
    ("scheduling.x-k8s.io", "podgroups"): {"get", "create"},
    ("events.k8s.io", "events"): {"create"},
}
CLUSTER = f"{NAMESPACE}-{RELEASE}"
Rights = dict[tuple[str, str], set[str]]


def rights(role: dict[str, Any]) -> Rights:
    table: Rights = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                table.setdefault((group, resource), set()).update(rule["verbs"])
    return table


def is_for_people(role: dict[str, Any]) -> bool:
    return bool(role["metadata"]["labels"].get("app.kubernetes.io/component") == "user-roles")


def roles(values: dict[str, Any] | None = None) -> dict[tuple[str, str, str], Rights]:
    kinds = ("Role", "ClusterRole")
    found = [one for one in render(values) if one["kind"] in kinds and not is_for_people(one)]
    return {
        (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace", "")): rights(one) for one in found
    }


def test_rights_over_the_cluster() -> None:
    assert roles() == {
        ("ClusterRole", CLUSTER, ""): JOB_RIGHTS,
        ("ClusterRole", f"{CLUSTER}-tokenreview", ""): {("authentication.k8s.io", "tokenreviews"): {"create"}},
        ("Role", f"{RELEASE}-lease", NAMESPACE): {("coordination.k8s.io", "leases"): {"create", "get", "update"}},
    }


def test_rights_in_namespaces() -> None:
    assert roles({"watchNamespaces": ["a", "b"]}) == {
        ("Role", CLUSTER, "a"): JOB_RIGHTS,
        ("Role", CLUSTER, "b"): JOB_RIGHTS,
        ("ClusterRole", f"{CLUSTER}-tokenreview", ""): {("authentication.k8s.io", "tokenreviews"): {"create"}},
        ("Role", f"{RELEASE}-lease", NAMESPACE): {("coordination.k8s.io", "leases"): {"create", "get", "update"}},
    }


def test_only_the_own_lease_may_be_changed() -> None:
    rules = find(render(), "Role")["rules"]

    assert [rule.get("resourceNames") for rule in rules if "update" in rule["verbs"]] == [[RELEASE]]


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}], ids=["cluster", "namespaces"])
def test_every_role_is_bound_to_the_operator_and_it_alone(values: dict[str, Any]) -> None:
    manifests = render(values)
    bindings = {
        (one["roleRef"]["kind"], one["roleRef"]["name"], one["metadata"].get("namespace", "")): one["subjects"]
        for one in manifests
        if one["kind"].endswith("RoleBinding")
    }

    assert bindings.keys() == roles(values).keys()
    operator = [{"kind": "ServiceAccount", "name": RELEASE, "namespace": NAMESPACE}]
    assert all(subjects == operator for subjects in bindings.values())
    assert find(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == RELEASE


def test_documented_rights_are_the_rights() -> None:
    from finetune_loopback.helm import CHART

    lines = [line.strip() for line in (CHART / "README.md").read_text().splitlines() if line.startswith("  | `")]
    documented = {line.split("`")[1]: line.split("|")[2].strip() for line in lines}

    for (_, resource), verbs in JOB_RIGHTS.items():
        assert set(documented[resource].split(", ")) == verbs
    assert set(documented) - {resource for _, resource in JOB_RIGHTS} == {"leases", "tokenreviews"}


def test_roles_of_people_are_added_to_kubernetes_own_but_for_the_one_of_admins() -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    found = {
        one["metadata"]["name"].removeprefix(f"{CLUSTER}-"): {
            label.removeprefix(prefix) for label in one["metadata"]["labels"] if label.startswith(prefix)
        }
        for one in render()
        if one["kind"] == "ClusterRole" and is_for_people(one)
    }

    assert found == {"edit": {"edit", "admin"}, "view": {"view", "edit", "admin"}, "privileged": set()}
    assert not [
        one
        for one in render({"userRoles": {"install": False}})
        if one["kind"] == "ClusterRole" and is_for_people(one)
    ]
