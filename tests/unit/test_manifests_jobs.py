"""The Jobs, stages' pods, names and owners of a FineTuneJob's children."""

import json
from dataclasses import replace

import pytest
from reconcile_builders import blueprint, job

from finetune_api.stage import Stage
from finetune_operator.manifests import build_children, build_probe, child_name
from finetune_operator.manifests.jobs import build_train_job

OWNER = {
    "apiVersion": "finetune-operator.io/v1alpha1",
    "kind": "FineTuneJob",
    "name": "bot",
    "uid": "uid-1",
    "controller": True,
    "blockOwnerDeletion": True,
}


def carrier(of):
    """What carries the stage: the last of its children."""
    return build_children(of)[-1]


def template(of):
    """The labels and spec of the stage's pods."""
    built = carrier(of)
    return built["spec"]["template"] if of.is_training else built


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
    built = carrier(blueprint(stage, attempt))
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
    assert template(blueprint(stage, attempt))["metadata"]["labels"] == labels


@pytest.mark.parametrize("stage", list(Stage))
def test_host_names_fit_for_the_longest_name(stage):
    longest = "x" * 45
    assert len(f"{child_name(longest, stage, 9999)}-1023") <= 63


@pytest.mark.parametrize("stage", list(Stage))
def test_every_child_is_owned_and_tried_once(stage):
    built = carrier(blueprint(stage))
    kind = ("batch/v1", "Job") if stage is Stage.TRAIN else ("v1", "Pod")
    assert (built["apiVersion"], built["kind"]) == kind
    assert built["metadata"]["ownerReferences"] == [OWNER]
    assert template(blueprint(stage))["spec"]["restartPolicy"] == "Never"


def test_an_attempt_is_never_retried_by_kubernetes():
    built = build_train_job(blueprint())["spec"]
    assert (built["backoffLimit"], built["podReplacementPolicy"]) == (0, "Failed")


def test_any_failed_pod_ends_its_job_and_is_named():
    disruption, exit_code = build_train_job(blueprint())["spec"]["podFailurePolicy"]["rules"]
    assert disruption == {
        "action": "FailJob",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert exit_code == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "trainer", "operator": "NotIn", "values": [0]},
    }


@pytest.mark.parametrize("nodes", [1, 4])
def test_pods_of_an_attempt(nodes):
    job_spec = build_train_job(blueprint(distributed={"numNodes": nodes}))["spec"]
    assert (job_spec["completions"], job_spec["parallelism"]) == (nodes, nodes)
    assert (job_spec["completionMode"], job_spec["suspend"]) == ("Indexed", False)


def test_training_needs_nothing_but_its_job():
    assert [one["kind"] for one in build_children(blueprint(distributed={"numNodes": 2}))] == ["Job"]


def test_the_labels_of_a_queue_go_to_the_job_and_the_queue_lets_it_go():
    labels = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high", "team": "a"}
    queued = replace(blueprint(), job=job(labels=labels))
    built = build_train_job(queued)
    assert built["spec"]["suspend"] is True
    assert built["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert built["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert "team" not in built["metadata"]["labels"]
    unnamed = replace(blueprint(), job=job(labels={"kueue.x-k8s.io/priority-class": "high"}))
    assert build_train_job(unnamed)["spec"]["suspend"] is False


@pytest.mark.parametrize("stage", list(Stage))
def test_a_probe_asks_for_a_pod_like_those_of_the_child(stage):
    probe = build_probe(blueprint(stage))
    assert probe["kind"] == "Pod"
    assert probe["spec"] == template(blueprint(stage))["spec"]


@pytest.mark.parametrize("stage", list(Stage))
def test_the_same_blueprint_builds_the_same_children(stage):
    first, second = (json.dumps(build_children(blueprint(stage)), sort_keys=True) for _ in range(2))
    assert first == second
