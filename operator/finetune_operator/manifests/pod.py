"""The pod of a stage: one container `trainer`, as strict as Pod Security `restricted` asks and a bit stricter."""

import json
from typing import Any

from finetune_api.stage import JOB_VARIABLE, PROGRESS_CA_VARIABLE, PROGRESS_URL_VARIABLE
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import service_name
from finetune_operator.manifests.resources import cpu_threads, shared_memory, stage_resources, train_resources
from finetune_operator.manifests.volumes import build_volumes

CONTAINER = "trainer"
USER = 65532
TRAIN_GRACE_SECONDS = 120
"""Time a training pod has to commit a checkpoint when it is told to stop."""
STAGE_GRACE_SECONDS = 30


def build_pod_template(blueprint: Blueprint) -> dict[str, Any]:
    """Return the pod template of a stage's Job. The operator's labels win over the user's."""
    template = blueprint.spec.pod_template
    metadata: dict[str, Any] = {"labels": {**template.labels, **blueprint.labels}}
    if template.annotations:
        metadata["annotations"] = template.annotations
    return {"metadata": metadata, "spec": build_pod_spec(blueprint)}


def build_pod_spec(blueprint: Blueprint) -> dict[str, Any]:
    """Return the pod spec of a stage."""
    resources = _resources(blueprint)
    volumes = build_volumes(blueprint, shared_memory=shared_memory(resources, blueprint.processes))
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TRAIN_GRACE_SECONDS if blueprint.is_training else STAGE_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**_container(blueprint, resources), "volumeMounts": [mounted.mount for mounted in volumes]}],
        "volumes": [mounted.volume for mounted in volumes],
        **_placement(blueprint),
    }
    if blueprint.num_pods > 1:
        spec["subdomain"] = service_name(blueprint.job.name)
    return spec


def _container(blueprint: Blueprint, resources: dict[str, Any]) -> dict[str, Any]:
    template = blueprint.spec.pod_template
    return {
        "name": CONTAINER,
        "image": template.image or blueprint.settings.trainer_image,
        "imagePullPolicy": template.image_pull_policy,
        "command": ["python", "-m", "finetune_trainer", blueprint.stage.value],
        "env": _environment(blueprint, resources),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "File",
    }


def _environment(blueprint: Blueprint, resources: dict[str, Any]) -> list[dict[str, Any]]:
    job = blueprint.job
    variables = {JOB_VARIABLE: encode_input(blueprint), "HOME": "/tmp", "PYTHONSAFEPATH": "1"}  # noqa: S108
    if blueprint.is_training:
        base = blueprint.settings.progress_url.rstrip("/")
        variables[PROGRESS_URL_VARIABLE] = f"{base}/v1/namespaces/{job.namespace}/jobs/{job.name}/progress"
        variables[PROGRESS_CA_VARIABLE] = blueprint.settings.progress_ca
    if not blueprint.uses_gpu:
        variables["DS_ACCELERATOR"] = "cpu"
        threads = cpu_threads(resources, blueprint.processes)
        variables |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    pod_uid = {"name": "FINETUNE_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return [*({"name": name, "value": value} for name, value in variables.items()), pod_uid]


def encode_input(blueprint: Blueprint) -> str:
    """Return the StageInput as JSON that survives Kubernetes.

    The kubelet replaces `$(NAME)` and `$$` in the values of variables. `$` occurs in JSON only within strings,
    where its escape means the same.
    """
    text = json.dumps(blueprint.stage_input().to_wire(), separators=(",", ":"), ensure_ascii=False)
    return text.replace("$", "\\u0024")


def _resources(blueprint: Blueprint) -> dict[str, Any]:
    if blueprint.is_training:
        return train_resources(blueprint.spec)
    return stage_resources(blueprint.spec, blueprint.settings.stage_resources)


def _placement(blueprint: Blueprint) -> dict[str, Any]:
    template = blueprint.spec.pod_template
    fields: dict[str, Any] = {
        "nodeSelector": template.node_selector,
        "tolerations": [toleration.to_wire() for toleration in template.tolerations],
        "affinity": template.affinity or _spread(blueprint),
        "priorityClassName": template.priority_class_name,
        "schedulerName": template.scheduler_name,
        "serviceAccountName": template.service_account_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": [secret.to_wire() for secret in template.image_pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}


def _spread(blueprint: Blueprint) -> dict[str, Any]:
    """Prefer a node for each pod of the attempt; pods of one node would share its network and its fate."""
    if blueprint.num_pods == 1:
        return {}
    term = {"labelSelector": {"matchLabels": blueprint.labels}, "topologyKey": "kubernetes.io/hostname"}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
