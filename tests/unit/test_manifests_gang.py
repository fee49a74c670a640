"""PodGroups: for whom, what they ask for, and how the pods name them."""

from dataclasses import replace

import pytest
from reconcile_builders import SETTINGS, blueprint

from finetune_api.stage import Stage
from finetune_operator.manifests import build_children
from finetune_operator.manifests.gang import COSCHEDULING, VOLCANO, build_pod_groups
from finetune_operator.manifests.pod import build_pod_template

BOTH = frozenset({VOLCANO, COSCHEDULING})
GROUP, LABEL = "scheduling.k8s.io/group-name", "scheduling.x-k8s.io/pod-group"


def plan(stage=Stage.TRAIN, *, apis=BOTH, nodes=2, **template):
    settings = replace(SETTINGS, api_versions=apis)
    distributed = {"numNodes": nodes, "device": "cpu"}
    return blueprint(stage, 2, settings=settings, distributed=distributed, podTemplate=template)


def metadata(**changes):
    return build_pod_template(plan(**changes))["metadata"]


def test_volcano():
    (group,) = build_pod_groups(plan(schedulerName="volcano"))
    assert group["apiVersion"] == "scheduling.volcano.sh/v1beta1"
    assert (group["metadata"]["name"], group["spec"]["minMember"]) == ("bot-a2", 2)
    assert metadata(schedulerName="volcano")["annotations"] == {GROUP: "bot-a2"}
    assert LABEL not in metadata(schedulerName="volcano")["labels"]


def test_coscheduling():
    (group,) = build_pod_groups(plan(schedulerName="gang"))
    assert group["apiVersion"] == "scheduling.x-k8s.io/v1alpha1"
    assert (group["metadata"]["name"], group["spec"]["minMember"]) == ("bot-a2", 2)
    assert metadata(schedulerName="gang")["labels"][LABEL] == "bot-a2"
    assert "annotations" not in metadata(schedulerName="gang")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedulerName": "default-scheduler"},
        {"schedulerName": "volcano", "nodes": 1},
        {"schedulerName": "volcano", "apis": frozenset({COSCHEDULING})},
        {"schedulerName": "gang", "apis": frozenset({VOLCANO})},
        {"schedulerName": "gang", "apis": frozenset()},
        {"schedulerName": "volcano", "stage": Stage.PREPARE},
        {"schedulerName": "gang", "stage": Stage.EXPORT},
        {"schedulerName": "volcano", "annotations": {GROUP: "mine"}},
        {"schedulerName": "gang", "labels": {LABEL: "mine"}},
    ],
)
def test_no_group_where_none_is_needed_known_or_left_to_us(changes):
    assert build_pod_groups(plan(**changes)) == ()
    told = metadata(**changes)
    assert told["labels"].get(LABEL) == changes.get("labels", {}).get(LABEL)
    assert told.get("annotations", {}).get(GROUP) == changes.get("annotations", {}).get(GROUP)


def test_the_group_comes_before_the_pods_and_is_the_attempts():
    kinds = [one["kind"] for one in build_children(plan(schedulerName="volcano"))]
    assert kinds == ["PodGroup", "Job"]
    (group,) = build_pod_groups(plan(schedulerName="volcano"))
    assert group["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert group["metadata"]["labels"]["finetune-operator.io/attempt"] == "2"


def test_the_group_asks_for_what_all_pods_request():
    resources = {
        "requests": {"cpu": "700m", "memory": "1.5Gi"},
        "limits": {"memory": "3Gi", "rdma/hca": 1, "ephemeral-storage": "1G"},
    }
    (group,) = build_pod_groups(plan(schedulerName="gang", nodes=3, resources=resources))
    assert group["spec"]["minResources"] == {
        "cpu": "2100m",
        "ephemeral-storage": "3000000000",
        "memory": str(3 * 3 * 2**29),
        "rdma/hca": "3",
    }


def test_queue_and_priority_go_to_volcano():
    annotations = {"scheduling.volcano.sh/queue-name": "gpus"}
    wanted = {"annotations": annotations, "priorityClassName": "high"}
    (group,) = build_pod_groups(plan(schedulerName="volcano", **wanted))
    assert (group["spec"]["queue"], group["spec"]["priorityClassName"]) == ("gpus", "high")
    (other,) = build_pod_groups(plan(schedulerName="gang", **wanted))
    assert other["spec"].keys() == {"minMember", "minResources"}
    (plain,) = build_pod_groups(plan(schedulerName="volcano"))
    assert plain["spec"].keys() == {"minMember", "minResources"}
