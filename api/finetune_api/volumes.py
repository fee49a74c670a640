"""Volumes that a user adds to the pods, and where they are mounted. Every reference is to the job's own namespace."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.fields import Amount, AnnotationValue, FileMode, Key, LabelValue, Name, OptionalName, Quantity

OWN_VOLUMES = ("work", "tmp", "shm", "s3-credentials", "s3-ca", "mlflow-credentials", "progress-token")
"""Names of the operator's volumes."""
CLOSED_FOLDERS = ("/var/lib/finetune", "/var/run/finetune", "/run/finetune", "/proc")
"""Folders in which, and above which, nothing may be mounted."""
CLOSED_PLACES = ("/tmp", "/dev", "/dev/shm", "/dev/termination-log", "/sys", "/run")  # noqa: S108 - mount points
"""Places where nothing may be mounted, though further below it may."""
RelativePath = Annotated[str, Field(pattern=r"^([-_.a-zA-Z0-9]+(/[-_.a-zA-Z0-9]+)*)?$", max_length=512)]


class EmptyDir(Record):
    """A folder that lives as long as the pod."""

    medium: Literal["", "Memory"] = Field(default="", description="Memory: kept in RAM; counts as the pod's memory.")
    size_limit: Quantity | None = Field(default=None, description="Most it may hold.")


class PersistentVolumeClaim(Record):
    """A PersistentVolumeClaim in the job's namespace."""

    claim_name: Name = Field(description="Name of the claim.")
    read_only: bool = Field(default=False, description="Mount it read-only.")


class KeyToPath(Record):
    """A key and the file it becomes."""

    key: Key = Field(description="Key.")
    path: RelativePath = Field(description="Path of the file within the volume.")
    mode: FileMode | None = Field(default=None, description="Permissions of the file, as a decimal number.")


class ConfigMapVolume(Record):
    """Files from a ConfigMap in the job's namespace."""

    name: Name = Field(description="Name of the ConfigMap.")
    items: list[KeyToPath] = Field(default=[], max_length=64, description="Keys to show; empty shows all.")
    default_mode: FileMode | None = Field(default=None, description="Permissions of the files, as a decimal number.")
    optional: bool = Field(default=False, description="true: the pod starts without it too.")


class SecretVolume(Record):
    """Files from a Secret in the job's namespace."""

    secret_name: Name = Field(description="Name of the Secret.")
    items: list[KeyToPath] = Field(default=[], max_length=64, description="Keys to show; empty shows all.")
    default_mode: FileMode | None = Field(default=None, description="Permissions of the files, as a decimal number.")
    optional: bool = Field(default=False, description="true: the pod starts without it too.")


class ClaimResources(Record):
    """What a claim asks for."""

    requests: dict[str, Amount] = Field(max_length=4, description="storage: size.")


class ClaimSpec(Record):
    """The claim of an ephemeral volume."""

    access_modes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]] = Field(
        default=["ReadWriteOnce"], max_length=4, description="Access modes."
    )
    storage_class_name: Name | None = Field(default=None, description="Storage class; left out means the default.")
    resources: ClaimResources = Field(description="Its size.")


class ClaimMetadata(Record):
    """Labels and annotations of the claim."""

    labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels.")
    annotations: dict[str, AnnotationValue] = Field(default={}, max_length=32, description="Annotations.")


class ClaimTemplate(Record):
    """A claim that is made with the pod."""

    metadata: ClaimMetadata | None = Field(default=None, description="Its labels and annotations.")
    spec: ClaimSpec = Field(description="The claim.")


class EphemeralVolume(Record):
    """A volume of a storage class that lives as long as the pod, e.g. a local NVMe disk."""

    volume_claim_template: ClaimTemplate = Field(description="The claim that is made with the pod.")


class CsiVolume(Record):
    """A volume of a CSI driver that lives as long as the pod."""

    driver: Annotated[str, Field(pattern=r"^[a-z0-9A-Z]([-a-z0-9A-Z.]*[a-z0-9A-Z])?$", max_length=63)] = Field(
        description="Name of the driver."
    )
    read_only: bool = Field(default=False, description="Mount it read-only.")
    fs_type: OptionalName = Field(default="", description="File system; empty leaves it to the driver.")
    volume_attributes: dict[str, Annotated[str, Field(max_length=4096)]] = Field(
        default={}, max_length=32, description="What the driver is told."
    )


class HostPath(Record):
    """A path of the node."""

    path: Annotated[str, Field(pattern=r"^/", max_length=1024)] = Field(description="Path on the node.")
    type: Literal[
        "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"
    ] = Field(default="", description="What must be there.")


class Volume(Record):
    """A volume, as in a pod; it has exactly one source."""

    rules: ClassVar = (
        Rule(
            f"!(self.name in {list(OWN_VOLUMES)})",
            f"spec.podTemplate.volumes may not be named {', '.join(OWN_VOLUMES[:-1])} or {OWN_VOLUMES[-1]}:"
            " the operator has volumes of these names; choose another",
        ),
        Rule(
            "[has(self.emptyDir), has(self.persistentVolumeClaim), has(self.configMap), has(self.secret),"
            " has(self.ephemeral), has(self.csi), has(self.hostPath)].filter(given, given).size() == 1",
            "spec.podTemplate.volumes[] takes exactly one of emptyDir, persistentVolumeClaim, configMap, secret,"
            " ephemeral, csi and hostPath",
        ),
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = Field(
        description="Name, for the mount."
    )
    empty_dir: EmptyDir | None = Field(default=None, description="Folder that lives as long as the pod.")
    persistent_volume_claim: PersistentVolumeClaim | None = Field(
        default=None, description="Claim; pods on several nodes need one that is ReadWriteMany or ReadOnlyMany."
    )
    config_map: ConfigMapVolume | None = Field(default=None, description="Files from a ConfigMap.")
    secret: SecretVolume | None = Field(default=None, description="Files from a Secret.")
    ephemeral: EphemeralVolume | None = Field(default=None, description="Claim that lives as long as the pod.")
    csi: CsiVolume | None = Field(default=None, description="Volume of a CSI driver that lives as long as the pod.")
    host_path: HostPath | None = Field(
        default=None, description="Path of the node; needs the right to `use` finetunejobs/privileged."
    )


class VolumeMount(Record):
    """Where a volume is mounted, as in a container."""

    rules: ClassVar = (
        Rule(
            f"!(self.mountPath in {list(CLOSED_PLACES)}) && !{list(CLOSED_FOLDERS)}.exists(own, self.mountPath == own"
            " || self.mountPath.startsWith(own + '/') || own.startsWith(self.mountPath + '/'))",
            f"spec.podTemplate.volumeMounts may not lie at {', '.join(CLOSED_PLACES)}, nor at, in or above"
            f" {', '.join(CLOSED_FOLDERS)}: the operator's mounts are there; choose another path",
        ),
        Rule(
            "!has(self.subPath) || !self.subPath.matches('(^|/)[.][.](/|$)')",
            "spec.podTemplate.volumeMounts[].subPath may not lead upwards (..)",
        ),
    )

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = Field(
        description="Name of the volume."
    )
    mount_path: Annotated[str, Field(pattern=r"^(/[.]?[-_a-zA-Z0-9][-_.a-zA-Z0-9]*)+$", max_length=512)] = Field(
        description="Absolute path in the container."
    )
    sub_path: RelativePath = Field(default="", description="Path within the volume; empty mounts its root.")
    read_only: bool = Field(default=False, description="Mount it read-only.")
