"""Volumes of a stage's pod: scratch space, shared memory, the credentials and the authority of S3, the credentials of
a tracking server, the progress token, and the user's own.

The operator names the Secret and the ConfigMap and never reads them. The file system of the container itself is
read-only, so everything a stage may write is listed here.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from finetune_api.stage import (
    CA_BUNDLE_FILE,
    CREDENTIALS_FILE,
    MLFLOW_FOLDER,
    TOKEN_AUDIENCE,
    TOKEN_FILE,
    WORK_DIR,
)
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.resources import shared_memory

TMP_SIZE = "10Gi"
TOKEN_SECONDS = 3600
GROUP_READABLE = 0o440


class Mounted(NamedTuple):
    """A volume and where it is mounted."""

    volume: dict[str, Any]
    path: PurePosixPath
    read_only: bool

    @property
    def mount(self) -> dict[str, Any]:
        """The container's mount of the volume."""
        mount = {"name": self.volume["name"], "mountPath": str(self.path)}
        return {**mount, "readOnly": True} if self.read_only else mount


def build_volumes(blueprint: Blueprint, resources: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the volumes of the stage's pod; `resources` are its container's. A user's never replaces one of ours."""
    theirs = {one.name: one.to_wire() for one in blueprint.spec.pod_template.volumes}
    ours = {mounted.volume["name"]: mounted.volume for mounted in _own_volumes(blueprint, resources)}
    return [*{**theirs, **ours}.values()]


def build_mounts(blueprint: Blueprint, resources: dict[str, Any]) -> list[dict[str, Any]]:
    """Return where the container mounts them."""
    theirs = {one.mount_path: one.to_wire() for one in blueprint.spec.pod_template.volume_mounts}
    ours = {str(mounted.path): mounted.mount for mounted in _own_volumes(blueprint, resources)}
    return [*{**theirs, **ours}.values()]


def _own_volumes(blueprint: Blueprint, resources: dict[str, Any]) -> list[Mounted]:
    volumes = [
        _scratch("work", WORK_DIR, {"sizeLimit": blueprint.spec.storage.cache.size_limit}),
        _scratch("tmp", PurePosixPath("/tmp"), {"sizeLimit": TMP_SIZE}),  # noqa: S108 - a mount point
        *_storage_access(blueprint),
    ]
    if blueprint.is_training:
        size = blueprint.spec.pod_template.shm_size or shared_memory(resources, blueprint.processes)
        memory = {"medium": "Memory", "sizeLimit": size}
        volumes += [_scratch("shm", PurePosixPath("/dev/shm"), memory), _token()]  # noqa: S108 - a mount point
        volumes += _tracking_access(blueprint)
    return volumes


def _scratch(name: str, path: PurePosixPath, empty_dir: dict[str, str]) -> Mounted:
    return Mounted({"name": name, "emptyDir": empty_dir}, path, read_only=False)


def _storage_access(blueprint: Blueprint) -> Iterator[Mounted]:
    s3 = blueprint.spec.storage.s3
    if s3.credentials_secret_ref:
        secret = {
            "secretName": s3.credentials_secret_ref.name,
            "items": [{"key": "credentials", "path": CREDENTIALS_FILE.name}],
            "defaultMode": GROUP_READABLE,
        }
        yield Mounted({"name": "s3-credentials", "secret": secret}, CREDENTIALS_FILE.parent, read_only=True)
    if s3.ca_bundle_config_map_ref:
        reference = s3.ca_bundle_config_map_ref
        bundle = {"name": reference.name, "items": [{"key": reference.key, "path": CA_BUNDLE_FILE.name}]}
        yield Mounted({"name": "s3-ca", "configMap": bundle}, CA_BUNDLE_FILE.parent, read_only=True)


def _tracking_access(blueprint: Blueprint) -> Iterator[Mounted]:
    mlflow = blueprint.spec.tracking.mlflow
    if mlflow and mlflow.credentials_secret_ref:
        secret = {"secretName": mlflow.credentials_secret_ref.name, "defaultMode": GROUP_READABLE}
        yield Mounted({"name": "mlflow-credentials", "secret": secret}, MLFLOW_FOLDER, read_only=True)


def _token() -> Mounted:
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE.name}
    projected = {"sources": [{"serviceAccountToken": token}], "defaultMode": GROUP_READABLE}
    return Mounted({"name": "progress-token", "projected": projected}, TOKEN_FILE.parent, read_only=True)
