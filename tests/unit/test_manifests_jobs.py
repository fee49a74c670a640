"""The Jobs, the Service, names and owners of a FineTuneJob's children."""

import json

import pytest
from reconcile_builders import blueprint, job

from finetune_api.stage import Stage
from finetune_operator.manifests import build_job, build_rendezvous_service, child_name
from finetune_operator.manifests.names import rendezvous_host

OWNER = {
    "apiVersion": "finetune-operator.io/v1alpha1",
    "kind": "FineTuneJob",
    "name": "bot",
    "uid": "uid-1",
    "controller": True,
    "blockOwnerDeletion": True,
}


@pytest.mark.parametrize(
    ("stage", "attempt", "name"),
    [
        (Stage.PREPARE, 1, "bot-prepare"),
        (Stage.PREPARE, 2, "bot-prepare-2"),
        (Stage.TRAIN, 1, "bot-a1"),
        (Stage.TRAIN, 12, "bot-a12"),
        (Stage.EXPORT, 1, "bot-export"),
        (Stage.EXPORT, 3, "bot-export-3"),
    ],
)
def test_names(stage, attempt, name):
    built = build_job(blueprint(stage, attempt))
    assert child_name("bot", stage, attempt) == name
    assert built["metadata"]["name"] == name
    assert built["metadata"]["namespace"] == "ml"
    labels = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune-operator.io/job": "bot",
        "finetune-operator.io/stage": stage.value,
        "finetune-operator.io/attempt": str(attempt),
    }
    assert built["metadata"]["labels"] == labels
    assert built["spec"]["template"]["metadata"]["labels"] == labels


@pytest.mark.parametrize("stage", list(Stage))
def test_host_names_fit_for_the_longest_name(stage):
    longest = "x" * 45
    assert len(f"{child_name(longest, stage, 9999)}-1023") <= 63


@pytest.mark.parametrize("stage", list(Stage))
def test_every_job_is_owned_and_tried_once(stage):
    built = build_job(blueprint(stage))
    assert built["apiVersion"], built["kind"] == ("batch/v1", "Job")
    assert built["metadata"]["ownerReferences"] == [OWNER]
    assert built["spec"]["backoffLimit"] == 0
    assert built["spec"]["podReplacementPolicy"] == "Failed"
    assert built["spec"]["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("stage", list(Stage))
def test_any_failed_pod_ends_its_job_and_is_named(stage):
    disruption, exit_code = build_job(blueprint(stage))["spec"]["podFailurePolicy"]["rules"]
    assert disruption == {
        "action": "FailJob",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert exit_code == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "trainer", "operator": "NotIn", "values": [0]},
    }


@pytest.mark.parametrize(
    ("stage", "nodes", "pods", "mode"),
    [
        (Stage.PREPARE, 4, 1, "NonIndexed"),
        (Stage.TRAIN, 1, 1, "Indexed"),
        (Stage.TRAIN, 4, 4, "Indexed"),
        (Stage.EXPORT, 4, 1, "NonIndexed"),
    ],
)
def test_pods_of_a_stage(stage, nodes, pods, mode):
    job_spec = build_job(blueprint(stage, distributed={"numNodes": nodes}))["spec"]
    assert (job_spec["completions"], job_spec["parallelism"], job_spec["completionMode"]) == (pods, pods, mode)


def test_service_gives_host_names_before_pods_are_ready():
    service = build_rendezvous_service(job())
    assert service["metadata"]["ownerReferences"] == [OWNER]
    assert service["metadata"]["name"] == "bot"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"] == [{"name": "rendezvous", "port": 29500, "targetPort": 29500}]


def test_service_selects_the_training_pods_alone():
    selector = build_rendezvous_service(job())["spec"]["selector"].items()
    for stage, is_selected in ((Stage.PREPARE, False), (Stage.TRAIN, True), (Stage.EXPORT, False)):
        labels = build_job(blueprint(stage))["spec"]["template"]["metadata"]["labels"].items()
        assert (selector <= labels) is is_selected


def test_rendezvous_host_is_the_first_pod_in_the_service():
    pod_spec = build_job(blueprint(Stage.TRAIN, 3))["spec"]["template"]["spec"]
    assert rendezvous_host(job(), 3) == "bot-a3-0.bot.ml.svc"
    assert pod_spec["subdomain"] == build_rendezvous_service(job())["metadata"]["name"]


@pytest.mark.parametrize("stage", list(Stage))
def test_the_same_blueprint_builds_the_same_job(stage):
    first, second = (json.dumps(build_job(blueprint(stage)), sort_keys=True) for _ in range(2))
    assert first == second
