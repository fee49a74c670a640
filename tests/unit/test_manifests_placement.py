"""Where pods may run: distinct nodes, spread over places, the user's own affinity."""

import pytest
from reconcile_builders import blueprint

from finetune_api.stage import Stage
from finetune_operator.manifests.pod import build_pod_spec, build_pod_template

WISH = "preferredDuringSchedulingIgnoredDuringExecution"
MUST = "requiredDuringSchedulingIgnoredDuringExecution"
GPU = "nvidia.com/gpu"


def pod(stage=Stage.TRAIN, attempt=1, *, nodes=2, processes=1, device="cpu", **template):
    distributed = {"numNodes": nodes, "processesPerNode": processes, "device": device}
    batch = {"globalBatchSize": nodes * processes}
    return build_pod_spec(blueprint(stage, attempt, distributed=distributed, training=batch, podTemplate=template))


def anti_affinity(**changes):
    (kind,) = pod(**changes)["affinity"]["podAntiAffinity"]
    return kind


def test_pods_of_an_attempt_prefer_different_nodes():
    (preferred,) = pod(attempt=2)["affinity"]["podAntiAffinity"][WISH]
    assert preferred["weight"] == 100
    assert preferred["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    labels = preferred["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert labels["finetune-operator.io/attempt"] == "2"
    assert labels.items() <= build_pod_template(blueprint(Stage.TRAIN, 2))["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"device": "cpu", "processes": 8}, WISH),
        ({"device": "gpu", "processes": 7}, WISH),
        ({"device": "gpu", "processes": 8}, MUST),
        ({"device": "gpu", "processes": 16}, MUST),
        ({"device": "gpu", "processes": 8, "resources": {"limits": {"nvidia.com/mig-1g.5gb": 8}}}, MUST),
        ({"device": "cpu", "hostNetwork": True}, MUST),
    ],
)
def test_pods_that_take_whole_nodes_must_have_different_ones(changes, kind):
    assert anti_affinity(**changes) == kind


NODE_AFFINITY = {"nodeAffinity": {MUST: {"nodeSelectorTerms": [{"matchExpressions": []}]}}}


def test_own_affinity_stands_beside_ours():
    affinity = pod(affinity=NODE_AFFINITY)["affinity"]
    assert affinity["nodeAffinity"] == NODE_AFFINITY["nodeAffinity"]
    assert affinity["podAntiAffinity"] == pod()["affinity"]["podAntiAffinity"]


@pytest.mark.parametrize("own", [{}, {WISH: []}])
def test_own_anti_affinity_takes_the_place_of_ours(own):
    assert pod(affinity={"podAntiAffinity": own})["affinity"] == {"podAntiAffinity": own}


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_the_one_pod_of_a_stage_takes_the_own_affinity_alone(stage):
    built = pod(stage, device="gpu", processes=8, hostNetwork=True, affinity=NODE_AFFINITY)
    assert built["affinity"] == NODE_AFFINITY


def test_spread_is_that_of_the_attempt():
    wanted = {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway"}
    (built,) = pod(attempt=3, topologySpreadConstraints=[wanted])["topologySpreadConstraints"]
    labels = built.pop("labelSelector")["matchLabels"]
    assert built == wanted
    assert (labels["finetune-operator.io/job"], labels["finetune-operator.io/attempt"]) == ("bot", "3")


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_stages_of_one_pod_are_not_spread(stage):
    assert "topologySpreadConstraints" not in pod(stage, topologySpreadConstraints=[{"topologyKey": "zone"}])
    assert "topologySpreadConstraints" not in pod()
