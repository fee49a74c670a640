"""The pod of a stage: one container `trainer`, as strict as Pod Security `restricted` asks and a bit stricter."""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.environment import build_environment
from finetune_operator.manifests.gang import gang_annotations, gang_labels
from finetune_operator.manifests.names import is_reserved_label
from finetune_operator.manifests.placement import build_placement
from finetune_operator.manifests.resources import stage_resources, train_resources
from finetune_operator.manifests.security import build_network, container_security, pod_security
from finetune_operator.manifests.volumes import build_mounts, build_volumes

CONTAINER = "trainer"
TRAIN_GRACE_SECONDS = 120
"""Time a training pod has to commit a checkpoint when it is told to stop."""
STAGE_GRACE_SECONDS = 30


def build_pod_template(blueprint: Blueprint) -> dict[str, Any]:
    """Return labels, annotations and spec of a stage's pods. The operator's labels win over the user's."""
    template = blueprint.spec.pod_template
    theirs = {key: value for key, value in template.labels.items() if not is_reserved_label(key)}
    metadata: dict[str, Any] = {"labels": {**theirs, **gang_labels(blueprint), **blueprint.labels}}
    annotations = {**template.annotations, **gang_annotations(blueprint)}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": build_pod_spec(blueprint)}


def build_pod_spec(blueprint: Blueprint) -> dict[str, Any]:
    """Return the pod spec of a stage."""
    resources = _resources(blueprint)
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TRAIN_GRACE_SECONDS if blueprint.is_training else STAGE_GRACE_SECONDS,
        "securityContext": pod_security(),
        "containers": [_container(blueprint, resources)],
        "volumes": build_volumes(blueprint, resources),
        **build_placement(blueprint),
        **build_network(blueprint),
    }


def _container(blueprint: Blueprint, resources: dict[str, Any]) -> dict[str, Any]:
    template = blueprint.spec.pod_template
    return {
        "name": CONTAINER,
        "image": template.image or blueprint.settings.trainer_image,
        "imagePullPolicy": template.image_pull_policy,
        "command": ["python", "-m", "finetune_trainer", blueprint.stage.value],
        "env": build_environment(blueprint, resources),
        "resources": resources,
        "volumeMounts": build_mounts(blueprint, resources),
        "securityContext": container_security(blueprint),
        "terminationMessagePolicy": "File",
    }


def _resources(blueprint: Blueprint) -> dict[str, Any]:
    if blueprint.is_training:
        return train_resources(blueprint.spec)
    return stage_resources(blueprint.spec, blueprint.settings.stage_resources)
