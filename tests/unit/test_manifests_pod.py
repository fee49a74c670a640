"""The pod of a stage: Pod Security `restricted`, what it is told, what it mounts, where it may run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_builders import blueprint

from finetune_api.pods import Resources
from finetune_api.stage import Stage, StageInput
from finetune_operator.manifests.pod import build_pod_spec, build_pod_template, encode_input
from finetune_operator.model import PodSettings

STAGES = list(Stage)


def container(stage=Stage.TRAIN, attempt=1, **changes):
    (only,) = build_pod_spec(blueprint(stage, attempt, **changes))["containers"]
    return only


def environment(stage=Stage.TRAIN, attempt=1, **changes):
    return {one["name"]: one.get("value") for one in container(stage, attempt, **changes)["env"]}


def volumes(stage=Stage.TRAIN, **changes):
    return {one["name"]: one for one in build_pod_spec(blueprint(stage, **changes))["volumes"]}


@pytest.mark.parametrize("stage", STAGES)
def test_pod_security_is_restricted(stage):
    pod = build_pod_spec(blueprint(stage))
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(stage)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_volumes_are_of_the_restricted_kinds(stage):
    allowed = {"emptyDir", "secret", "configMap", "projected"}
    storage = {"s3": {"credentialsSecretRef": {"name": "s3"}, "caBundleConfigMapRef": {"name": "ca"}}}
    for volume in volumes(stage, storage=storage).values():
        assert volume.keys() - {"name"} <= allowed


@pytest.mark.parametrize(("stage", "grace"), [(Stage.PREPARE, 30), (Stage.TRAIN, 120), (Stage.EXPORT, 30)])
def test_grace_period(stage, grace):
    assert build_pod_spec(blueprint(stage))["terminationGracePeriodSeconds"] == grace


@pytest.mark.parametrize("stage", STAGES)
def test_command_and_image(stage):
    assert container(stage)["command"] == ["python", "-m", "finetune_trainer", stage.value]
    assert container(stage)["image"] == "registry.example/trainer:1"
    own = container(stage, podTemplate={"image": "own:2", "imagePullPolicy": "Always"})
    assert (own["image"], own["imagePullPolicy"]) == ("own:2", "Always")


@pytest.mark.parametrize(
    ("stage", "attempt", "nodes", "address", "told_attempt"),
    [
        (Stage.PREPARE, 2, 2, "127.0.0.1", 0),
        (Stage.TRAIN, 1, 1, "127.0.0.1", 1),
        (Stage.TRAIN, 3, 2, "bot-a3-0.bot-train.ml.svc", 3),
        (Stage.EXPORT, 1, 2, "127.0.0.1", 0),
    ],
)
def test_what_a_stage_is_told(stage, attempt, nodes, address, told_attempt):
    limits = {"resources": {"limits": {"memory": "3Gi"}}}
    variables = environment(stage, attempt, distributed={"numNodes": nodes}, podTemplate=limits)
    told = StageInput.model_validate_json(variables["FINETUNE_JOB"])
    assert (told.name, told.namespace, told.uid) == ("bot", "ml", "uid-1")
    assert told.master_address == address
    assert told.attempt == told_attempt
    assert told.memory_limit_bytes == 3 * 2**30  # of a training pod, whatever the stage
    assert told.spec == blueprint(distributed={"numNodes": nodes}, podTemplate=limits).spec


@given(st.text(max_size=200) | st.sampled_from(["$(HOME)", "$$", "$$(X)", "\\$", '"$"', "{{ bos }}\n", "è日"]))
def test_what_is_told_survives_the_expansion_of_variables(template):
    text = encode_input(blueprint(model={"chatTemplate": template}))
    assert "$" not in text
    assert StageInput.model_validate_json(text).spec.model.chat_template == template


@pytest.mark.parametrize("stage", STAGES)
def test_common_variables(stage):
    variables = environment(stage)
    assert variables["HOME"] == "/tmp"
    assert variables["PYTHONSAFEPATH"] == "1"
    uid = next(one for one in container(stage)["env"] if one["name"] == "FINETUNE_POD_UID")
    assert uid["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


@pytest.mark.parametrize(("stage", "reports"), [(Stage.PREPARE, False), (Stage.TRAIN, True), (Stage.EXPORT, False)])
def test_only_training_reports_progress(stage, reports):
    variables = environment(stage)
    url = "https://op.ml.svc:8443/v1/namespaces/ml/jobs/bot/progress"
    assert variables.get("FINETUNE_PROGRESS_URL") == (url if reports else None)
    assert variables.get("FINETUNE_PROGRESS_CA") == ("PEM" if reports else None)
    assert ("progress-token" in volumes(stage)) is reports


CPU = {"resources": {"requests": {"cpu": "3500m"}}, "stageResources": {"requests": {"cpu": 2}}}


@pytest.mark.parametrize(
    ("stage", "device", "accelerator", "threads"),
    [
        (Stage.PREPARE, "gpu", "cpu", "2"),
        (Stage.TRAIN, "gpu", None, None),
        (Stage.EXPORT, "gpu", "cpu", "2"),
        (Stage.TRAIN, "cpu", "cpu", "3"),
    ],
)
def test_pods_without_a_gpu_compute_on_their_cpus(stage, device, accelerator, threads):
    variables = environment(stage, distributed={"device": device}, podTemplate=CPU)
    assert variables.get("DS_ACCELERATOR") == accelerator
    assert variables.get("OMP_NUM_THREADS") == threads


def test_threads_are_left_to_the_image_without_a_cpu_request():
    assert "OMP_NUM_THREADS" not in environment()


def test_stage_pods_take_the_defaults_of_the_operator():
    defaults = Resources(requests={"cpu": "250m"})
    settings = PodSettings(trainer_image="i", progress_url="https://h", progress_ca="PEM", stage_resources=defaults)
    for stage, expected in ((Stage.PREPARE, {"requests": {"cpu": "250m"}}), (Stage.TRAIN, {})):
        (only,) = build_pod_spec(blueprint(stage, settings=settings))["containers"]
        assert only["resources"] == expected


def test_scratch_space():
    found = volumes(storage={"cache": {"sizeLimit": "5Gi"}})
    assert found["work"]["emptyDir"] == {"sizeLimit": "5Gi"}
    assert found["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2**30)}
    assert "shm" not in volumes(Stage.PREPARE)
    paths = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    assert paths["work"] == "/var/lib/finetune"
    assert (paths["tmp"], paths["shm"]) == ("/tmp", "/dev/shm")


@pytest.mark.parametrize("stage", STAGES)
def test_credentials_are_mounted_by_name(stage):
    storage = {
        "s3": {"credentialsSecretRef": {"name": "mine"}, "caBundleConfigMapRef": {"name": "ca", "key": "root.pem"}}
    }
    found = volumes(stage, storage=storage)
    assert found["s3-credentials"]["secret"] == {
        "secretName": "mine",
        "items": [{"key": "credentials", "path": "credentials"}],
        "defaultMode": 0o440,
    }
    assert found["s3-ca"]["configMap"] == {"name": "ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
    mounts = {one["name"]: one for one in container(stage, storage=storage)["volumeMounts"]}
    assert mounts["s3-credentials"] == {
        "name": "s3-credentials",
        "mountPath": "/var/run/finetune/s3",
        "readOnly": True,
    }
    assert mounts["s3-ca"] == {"name": "s3-ca", "mountPath": "/var/run/finetune/ca", "readOnly": True}


def test_without_references_nothing_is_mounted_for_the_storage():
    assert volumes(Stage.PREPARE).keys() == {"work", "tmp"}


def test_progress_token_is_bound_to_the_operator():
    projected = volumes()["progress-token"]["projected"]
    (source,) = projected["sources"]
    assert source["serviceAccountToken"] == {
        "audience": "finetune-operator",
        "expirationSeconds": 3600,
        "path": "token",
    }
    mount = next(one for one in container()["volumeMounts"] if one["name"] == "progress-token")
    assert mount == {"name": "progress-token", "mountPath": "/var/run/finetune/token", "readOnly": True}


@pytest.mark.parametrize("stage", STAGES)
def test_every_volume_is_mounted_once(stage):
    names = [one["name"] for one in container(stage)["volumeMounts"]]
    assert sorted(names) == sorted(volumes(stage))


def test_pods_of_an_attempt_prefer_different_nodes():
    affinity = build_pod_spec(blueprint(Stage.TRAIN, 2))["affinity"]
    (preferred,) = affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["weight"] == 100
    assert preferred["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    labels = preferred["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert labels["finetune-operator.io/attempt"] == "2"
    assert labels.items() <= build_pod_template(blueprint(Stage.TRAIN, 2))["metadata"]["labels"].items()


def test_own_affinity_replaces_ours():
    own = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    assert build_pod_spec(blueprint(podTemplate={"affinity": own}))["affinity"] == own


def test_one_pod_needs_no_spread_and_no_service():
    pod = build_pod_spec(blueprint(distributed={"numNodes": 1}))
    assert not {"affinity", "subdomain"} & pod.keys()


PLACEMENT = {
    "nodeSelector": {"pool": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}],
    "priorityClassName": "high",
    "schedulerName": "volcano",
    "serviceAccountName": "irsa",
    "runtimeClassName": "nvidia",
    "imagePullSecrets": [{"name": "pull"}],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("field", list(PLACEMENT))
def test_placement_is_passed_on_and_left_out_when_not_set(stage, field):
    assert build_pod_spec(blueprint(stage, podTemplate=PLACEMENT))[field] == PLACEMENT[field]
    assert field not in build_pod_spec(blueprint(stage))


def test_own_labels_and_annotations_are_added_and_never_win():
    own = {
        "labels": {"team": "a", "finetune-operator.io/stage": "fake", "app.kubernetes.io/managed-by": "me"},
        "annotations": {"note": "x"},
    }
    metadata = build_pod_template(blueprint(Stage.TRAIN, podTemplate=own))["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["finetune-operator.io/stage"] == "train"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "finetune-operator"
    assert metadata["annotations"] == {"note": "x"}
    assert "annotations" not in build_pod_template(blueprint())["metadata"]


@pytest.mark.parametrize("stage", STAGES)
def test_manifests_are_plain_json(stage):
    template = build_pod_template(blueprint(stage, podTemplate=PLACEMENT))
    assert json.loads(json.dumps(template)) == template
