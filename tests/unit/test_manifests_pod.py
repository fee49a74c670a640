"""The pod of a stage: Pod Security `restricted`, what it is told, what it mounts, where it may run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_builders import blueprint

from finetune_api.pods import Resources
from finetune_api.stage import Stage, StageInput
from finetune_operator.manifests.environment import encode_input
from finetune_operator.manifests.pod import build_pod_spec, build_pod_template
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
    ("stage", "attempt", "nodes", "meets", "told_attempt"),
    [
        (Stage.PREPARE, 2, 2, False, 0),
        (Stage.TRAIN, 1, 1, False, 1),
        (Stage.TRAIN, 3, 2, True, 3),
        (Stage.EXPORT, 1, 2, False, 0),
    ],
)
def test_what_a_stage_is_told(stage, attempt, nodes, meets, told_attempt):
    limits = {"resources": {"limits": {"memory": "3Gi"}}}
    variables = environment(stage, attempt, distributed={"numNodes": nodes}, podTemplate=limits)
    told = StageInput.model_validate_json(variables["FINETUNE_JOB"])
    assert (told.name, told.namespace, told.uid) == ("bot", "ml", "uid-1")
    assert ("FINETUNE_POD_IP" in variables) is meets
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


def test_pods_that_must_find_one_another_know_their_address():
    (address,) = [one for one in container()["env"] if one["name"] == "FINETUNE_POD_IP"]
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}


@pytest.mark.parametrize(("stage", "reports"), [(Stage.PREPARE, False), (Stage.TRAIN, True), (Stage.EXPORT, False)])
def test_only_training_reports_progress(stage, reports):
    variables = environment(stage)
    url = "https://op.ml.svc:8443/v1/namespaces/ml/jobs/bot/progress"
    assert variables.get("FINETUNE_PROGRESS_URL") == (url if reports else None)
    assert variables.get("FINETUNE_PROGRESS_CA") == ("PEM" if reports else None)
    assert ("progress-token" in volumes(stage)) is reports


@pytest.mark.parametrize("stage", STAGES)
def test_own_variables_are_added_to_every_stage(stage):
    own = [
        {"name": "NCCL_IB_HCA", "value": "mlx5"},
        {"name": "EMPTY"},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "PROXY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]
    built = {one.pop("name"): one for one in container(stage, podTemplate={"env": own})["env"]}
    assert built["NCCL_IB_HCA"] == {"value": "mlx5"}
    assert built["EMPTY"] == {"value": ""}
    assert built["HOST"] == {"valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
    assert built["PROXY"] == {"valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": False}}}


OWN = ("FINETUNE_POD_UID", "FINETUNE_POD_IP")


def test_own_variables_win_over_defaults_and_never_over_ours():
    own = [{"name": name, "value": "mine"} for name in ("OMP_NUM_THREADS", "HOME", "FINETUNE_JOB", *OWN)]
    template = {"env": own, "resources": {"limits": {"cpu": 4}}}
    variables = environment(podTemplate=template)
    assert variables["OMP_NUM_THREADS"] == "mine"
    assert "mine" not in [variables[name] for name in ("HOME", "FINETUNE_JOB", *OWN)]
    assert len(container(podTemplate=template)["env"]) == len(variables)


def test_a_secret_never_gets_into_an_environment():
    own = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    (built,) = [one for one in container(podTemplate={"env": own})["env"] if one["name"] == "A"]
    assert built == {"name": "A", "valueFrom": {}}, "the API server refuses the pod"


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


def test_credentials_of_a_tracking_server_are_files_of_training_pods_alone():
    server = {"uri": "https://mlflow.example.com", "credentialsSecretRef": {"name": "tracking"}}
    tracking = {"mlflow": server}
    assert volumes(tracking=tracking)["mlflow-credentials"]["secret"] == {
        "secretName": "tracking",
        "defaultMode": 0o440,
    }
    mounts = {one["name"]: one for one in container(tracking=tracking)["volumeMounts"]}
    assert mounts["mlflow-credentials"] == {
        "name": "mlflow-credentials",
        "mountPath": "/var/run/finetune/mlflow",
        "readOnly": True,
    }
    assert "mlflow-credentials" not in volumes(Stage.EXPORT, tracking=tracking)
    assert "mlflow-credentials" not in volumes(tracking={"mlflow": {"uri": "https://mlflow.example.com"}})


def test_without_references_nothing_is_mounted_for_the_storage():
    assert volumes(Stage.PREPARE).keys() == {"work", "tmp"}


@pytest.mark.parametrize("stage", STAGES)
def test_own_volumes_are_added_to_every_stage(stage):
    template = {
        "volumes": [
            {"name": "hf", "persistentVolumeClaim": {"claimName": "cache", "readOnly": True}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "volumeMounts": [{"name": "hf", "mountPath": "/cache", "subPath": "hub", "readOnly": True}],
    }
    found = volumes(stage, podTemplate=template)
    assert found["hf"]["persistentVolumeClaim"] == {"claimName": "cache", "readOnly": True}
    assert found["scratch"]["emptyDir"] == {"medium": ""}
    assert found.keys() - volumes(stage).keys() == {"hf", "scratch"}
    (mount,) = [one for one in container(stage, podTemplate=template)["volumeMounts"] if one["name"] == "hf"]
    assert mount == {"name": "hf", "mountPath": "/cache", "subPath": "hub", "readOnly": True}


@pytest.mark.parametrize("stage", STAGES)
def test_own_volumes_never_replace_ours(stage):
    template = {
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "mine", "emptyDir": {}}],
        "volumeMounts": [{"name": "mine", "mountPath": "/tmp"}],
    }
    assert volumes(stage, podTemplate=template)["work"]["emptyDir"] == {"sizeLimit": "200Gi"}
    (mount,) = [one for one in container(stage, podTemplate=template)["volumeMounts"] if one["mountPath"] == "/tmp"]
    assert mount["name"] == "tmp"


def test_own_size_of_shared_memory():
    template = {"shmSize": "32Gi", "resources": {"limits": {"memory": "40Gi"}}}
    assert volumes(podTemplate=template)["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    assert "shm" not in volumes(Stage.PREPARE, podTemplate=template)


LIFTED = {"hostNetwork": True, "privileged": True, "capabilities": ["IPC_LOCK"]}


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_what_an_admin_lifts_is_lifted_in_training_alone(stage):
    assert build_pod_spec(blueprint(stage, podTemplate=LIFTED)) == {
        **build_pod_spec(blueprint(stage)),
        "containers": [{**container(stage), "env": container(stage, podTemplate=LIFTED)["env"]}],
    }


def test_host_network_keeps_the_names_of_the_cluster():
    pod = build_pod_spec(blueprint(podTemplate={"hostNetwork": True}))
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_capabilities_are_added_for_root_who_alone_can_have_them():
    context = container(podTemplate={"capabilities": ["IPC_LOCK"]})["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True


def test_privileged_pods_run_as_root():
    context = container(podTemplate={"privileged": True})["securityContext"]
    assert context == {"privileged": True, "runAsUser": 0, "runAsNonRoot": False, "readOnlyRootFilesystem": True}


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


def test_one_pod_needs_no_spread():
    assert "affinity" not in build_pod_spec(blueprint(distributed={"numNodes": 1}))


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
        "labels": {
            "team": "a",
            "finetune-operator.io/stage": "fake",
            "app.kubernetes.io/managed-by": "me",
            "batch.kubernetes.io/job-name": "another",
        },
        "annotations": {"note": "x"},
    }
    metadata = build_pod_template(blueprint(Stage.TRAIN, podTemplate=own))["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["finetune-operator.io/stage"] == "train"
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "finetune-operator"
    assert "batch.kubernetes.io/job-name" not in metadata["labels"]
    assert metadata["annotations"] == {"note": "x"}
    assert "annotations" not in build_pod_template(blueprint())["metadata"]


@pytest.mark.parametrize("stage", STAGES)
def test_manifests_are_plain_json(stage):
    template = build_pod_template(blueprint(stage, podTemplate=PLACEMENT))
    assert json.loads(json.dumps(template)) == template
