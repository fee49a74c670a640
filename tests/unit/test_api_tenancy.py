"""A job names what lies in its own namespace: no reference has room for another one."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api import crd

CROSSING = [
    "other/s3",
    "other:s3",
    "../s3",
    "s3/../../other",
    "S3",
    " s3",
    "s3\n",
    "*",
    "s3,other",
    "other\\s3",
    "%2e",
]
NAMED = {
    "spec.storage.s3.credentialsSecretRef.name",
    "spec.storage.s3.caBundleConfigMapRef.name",
    "spec.tracking.mlflow.credentialsSecretRef.name",
    "spec.podTemplate.imagePullSecrets[].name",
    "spec.podTemplate.serviceAccountName",
    "spec.podTemplate.env[].valueFrom.configMapKeyRef.name",
    "spec.podTemplate.env[].valueFrom.secretKeyRef.name",
    "spec.podTemplate.volumes[].persistentVolumeClaim.claimName",
    "spec.podTemplate.volumes[].configMap.name",
    "spec.podTemplate.volumes[].secret.secretName",
    "spec.podTemplate.volumes[].ephemeral.volumeClaimTemplate.spec.storageClassName",
    "spec.podTemplate.priorityClassName",
    "spec.podTemplate.schedulerName",
    "spec.podTemplate.runtimeClassName",
}
"""Every field that names an object of the cluster."""
OWN_NAMES = {"spec.podTemplate.env[].name", "spec.podTemplate.volumes[].name", "spec.podTemplate.volumeMounts[].name"}
"""Fields whose name means something within the pod alone."""


def fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from fields(child, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")


SPEC = dict(fields(crd.build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec"))


def test_no_field_is_a_namespace() -> None:
    assert [path for path in SPEC if "namespace" in path.lower()] == []


def test_every_field_that_names_an_object_is_known_here() -> None:
    endings = ("name", "Name")
    assert {path for path in SPEC if path.endswith(endings)} - OWN_NAMES == NAMED


@pytest.mark.parametrize("path", sorted(NAMED))
@pytest.mark.parametrize("name", CROSSING)
def test_a_name_has_no_room_for_a_namespace(path: str, name: str) -> None:
    pattern = SPEC[path]["pattern"]
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    assert not re.fullmatch(pattern, name)
    assert re.fullmatch(pattern, "s3.v-2")


def test_free_forms_are_the_known_ones() -> None:
    """An affinity may name namespaces, as in a pod: it steers the scheduler and opens nothing."""
    free = [path for path, node in SPEC.items() if node.get("x-kubernetes-preserve-unknown-fields")]
    assert free == ["spec.podTemplate.affinity"]
