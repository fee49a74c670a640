"""Fields for admins: the chart's admission policy on a real API server, for people with and without the right."""

import time
from typing import Any

import pytest

from finetune_api import GROUP, PLURAL, VERSION
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.helm import NAMESPACE, RELEASE, deploy, find, render
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import MERGE, ApiError, KubeApi
from finetune_operator.reconcile.privilege import privileged_fields

TEAM = "team-a"
JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{TEAM}/{PLURAL}"
BINDINGS = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{TEAM}/rolebindings"
ROLES = f"{NAMESPACE}-{RELEASE}"
PATIENCE_SECONDS = 30.0
HOST_PATH = [{"name": "ok", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/dev/infiniband"}}]
FIELDS: dict[str, dict[str, Any]] = {
    "hostNetwork": {"hostNetwork": True},
    "privileged": {"privileged": True},
    "capabilities": {"capabilities": ["IPC_LOCK"]},
    "volumes": {"volumes": HOST_PATH},
}
HARMLESS = {"hostNetwork": False, "privileged": False, "volumes": HOST_PATH[:1]}


def person(api: KubeApi, name: str, *roles: str) -> str:
    """Make a user who has these roles of the chart in the team's namespace; return a token."""
    for role in roles:
        body = {
            "metadata": {"name": f"{name}-{role}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{ROLES}-{role}"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": TEAM}],
        }
        api.ensure(BINDINGS, body)
    return api.token_for(TEAM, name)


def create(api: KubeApi, token: str, template: dict[str, Any], name: str = "job") -> dict[str, Any]:
    job = minimal_job(name, podTemplate=template)
    return api.request("POST", JOBS, body=job, token=token, dryRun="All", fieldValidation="Strict")


@pytest.fixture
def guarded(release: KubeApi) -> KubeApi:
    """The release, once the API server has taken its policy up; it says nowhere when."""
    tenant = person(release, "tenant", "edit")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            create(release, tenant, FIELDS["hostNetwork"])
        except ApiError as error:
            if "is for admins" in error.message:
                return release
        time.sleep(0.2)
    raise AssertionError(f"the policy was not taken up within {PATIENCE_SECONDS:.0f} s")


@pytest.mark.parametrize("field", list(FIELDS))
def test_refused_by_name_without_the_right(guarded: KubeApi, field: str) -> None:
    with pytest.raises(ApiError) as refusal:
        create(guarded, person(guarded, "tenant", "edit"), FIELDS[field])

    assert refusal.value.code == 403
    assert f"spec.podTemplate.{field}" in refusal.value.message
    assert "the right to use finetunejobs/privileged" in refusal.value.message


@pytest.mark.parametrize("field", list(FIELDS))
def test_allowed_with_the_right(guarded: KubeApi, field: str) -> None:
    create(guarded, person(guarded, "lead", "edit", "privileged"), FIELDS[field])


@pytest.mark.parametrize("template", [{}, HARMLESS], ids=["nothing", "harmless"])
def test_everybody_may_set_the_rest(guarded: KubeApi, template: dict[str, Any]) -> None:
    create(guarded, person(guarded, "tenant", "edit"), template)


def test_the_right_in_another_namespace_is_of_no_use(guarded: KubeApi) -> None:
    body = {
        "metadata": {"name": "guest-privileged"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{ROLES}-privileged"},
        "subjects": [{"kind": "ServiceAccount", "name": "guest", "namespace": TEAM}],
    }
    guarded.ensure(BINDINGS.replace(TEAM, "team-b"), body)

    with pytest.raises(ApiError, match="is for admins"):
        create(guarded, person(guarded, "guest", "edit"), FIELDS["privileged"])


def test_a_job_of_an_admin_is_not_changed_by_others_but_deleted(guarded: KubeApi) -> None:
    admin, tenant = person(guarded, "lead", "edit", "privileged"), person(guarded, "tenant", "edit", "view")
    job = minimal_job("lifted", podTemplate=FIELDS["privileged"])
    guarded.request("POST", JOBS, body=job, token=admin)

    def patch(token: str, change: dict[str, Any]) -> None:
        guarded.request("PATCH", f"{JOBS}/lifted", body=change, token=token, content_type=MERGE)

    with pytest.raises(ApiError, match="is for admins"):
        patch(tenant, {"spec": {"podTemplate": {"image": "evil"}}})
    patch(tenant, {"metadata": {"labels": {"team": "a"}}})
    patch(admin, {"spec": {"podTemplate": {"image": "good"}}})
    guarded.request("DELETE", f"{JOBS}/lifted", token=tenant)


def test_a_field_cannot_be_slipped_in_later(guarded: KubeApi) -> None:
    tenant = person(guarded, "tenant", "edit", "view")
    guarded.request("POST", JOBS, body=minimal_job("later"), token=tenant)

    change = {"spec": {"podTemplate": {"capabilities": ["SYS_ADMIN"]}}}
    with pytest.raises(ApiError, match=r"spec\.podTemplate\.capabilities is for admins"):
        guarded.request("PATCH", f"{JOBS}/later", body=change, token=tenant, content_type=MERGE)
    guarded.request("DELETE", f"{JOBS}/later", token=tenant)


def test_people_may_do_what_their_roles_say(release: KubeApi) -> None:
    viewer, editor = person(release, "viewer", "view"), person(release, "tenant", "edit", "view")

    release.request("GET", JOBS, token=viewer)
    with pytest.raises(ApiError, match="forbidden"):
        create(release, viewer, {})
    create(release, editor, {})
    with pytest.raises(ApiError, match="forbidden"):
        release.request("GET", JOBS.replace(TEAM, "team-b"), token=editor)


def test_policy_and_operator_know_the_same_fields() -> None:
    policy = find(render(), "ValidatingAdmissionPolicy")
    guarded = {
        one["expression"].split("variables.template.")[1].split(")")[0] for one in policy["spec"]["validations"]
    }
    spec = {
        **minimal_job()["spec"],
        "podTemplate": {key: value for one in FIELDS.values() for key, value in one.items()},
    }
    known = {field.split(".")[2].split("[")[0] for field in privileged_fields(FineTuneJobSpec.model_validate(spec))}

    assert guarded == known == set(FIELDS)


def test_without_the_policy_the_operator_is_told_to_refuse() -> None:
    def told(values: dict[str, Any]) -> str:
        (container,) = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
        return next(one["value"] for one in container["env"] if one["name"] == "ALLOW_PRIVILEGED_FIELDS")

    kinds = {one["kind"] for one in render({"admission": {"install": False}})}
    assert not {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} & kinds
    assert (told({}), told({"admission": {"install": False}})) == ("true", "false")


def test_the_policy_goes_with_the_release_that_has_none(release: KubeApi) -> None:
    deploy(release, {"admission": {"install": False}})

    with pytest.raises(ApiError, match="not found"):
        release.request("GET", f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{ROLES}")
