"""The part of the spec that speaks Kubernetes: references, resources, and what a user may set on the pods."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.environment import Variable
from finetune_api.fields import Amount, AnnotationValue, Key, LabelKey, LabelValue, Name, OptionalName, Quantity
from finetune_api.volumes import Volume, VolumeMount

ADMIN_ONLY = "Needs the right to `use` finetunejobs/privileged, and a namespace whose Pod Security level lets it in."


class SecretRef(Record):
    """A Secret in the job's namespace."""

    name: Name = Field(description="Name of the Secret.")


class ConfigMapKeyRef(Record):
    """One key of a ConfigMap in the job's namespace."""

    name: Name = Field(description="Name of the ConfigMap.")
    key: Key = Field(default="ca.crt", description="Key.")


class Toleration(Record):
    """A toleration, as in a pod."""

    key: str | None = Field(default=None, max_length=317, description="Taint key.")
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="Exists or Equal.")
    value: str | None = Field(default=None, max_length=253, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="How long a NoExecute taint is tolerated."
    )


class TopologySpreadConstraint(Record):
    """How evenly the pods of an attempt lie over zones, racks or nodes, as in a pod.

    It has no labelSelector: the operator's selects the pods of the same attempt.
    """

    topology_key: LabelKey = Field(
        description="Node label whose values are the places, e.g. topology.kubernetes.io/zone."
    )
    max_skew: int = Field(default=1, ge=1, le=1024, description="Largest difference between two places.")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        default="DoNotSchedule", description="Whether a pod waits, or takes the least uneven place."
    )
    min_domains: int | None = Field(default=None, ge=1, le=1024, description="Fewest places; with DoNotSchedule.")
    node_affinity_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodes that node affinity excludes count."
    )
    node_taints_policy: Literal["Honor", "Ignore"] | None = Field(
        default=None, description="Whether nodes with taints that are not tolerated count."
    )


class Resources(Record):
    """Requests and limits, as in a container."""

    requests: dict[str, Amount] = Field(default={}, max_length=16, description="Requests by resource name.")
    limits: dict[str, Amount] = Field(default={}, max_length=16, description="Limits by resource name.")


class PodTemplate(Record):
    """What a user may set on the pods. Lists are merged with the operator's by their key, never replaced."""

    rules: ClassVar = (
        Rule(
            "!has(self.labels) || self.labels.all(k, !k.startsWith('finetune-operator.io/')"
            " && !k.startsWith('batch.kubernetes.io/') && k != 'app.kubernetes.io/managed-by')",
            "spec.podTemplate.labels may not hold finetune-operator.io/..., batch.kubernetes.io/... or"
            " app.kubernetes.io/managed-by: the operator sets them; choose other label keys",
        ),
        Rule(
            "(!has(self.stageResources.requests) || self.stageResources.requests.all(k,"
            " k in ['cpu', 'memory', 'ephemeral-storage']))"
            " && (!has(self.stageResources.limits) || self.stageResources.limits.all(k,"
            " k in ['cpu', 'memory', 'ephemeral-storage']))",
            "spec.podTemplate.stageResources takes cpu, memory and ephemeral-storage alone: the prepare and export"
            " pods use no GPU",
        ),
        Rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(mount, has(self.volumes)"
            " && self.volumes.exists(volume, volume.name == mount.name))",
            "spec.podTemplate.volumeMounts names a volume that spec.podTemplate.volumes does not hold; add the volume"
            " or correct the name",
        ),
        Rule(
            "!has(self.shmSize) || !has(self.resources.limits) || !('memory' in self.resources.limits)"
            " || !quantity(self.shmSize).isGreaterThan(quantity(string(self.resources.limits['memory'])))",
            "spec.podTemplate.shmSize may not exceed spec.podTemplate.resources.limits.memory: /dev/shm counts as the"
            " pod's memory",
        ),
        Rule(
            "!has(self.capabilities) || !self.capabilities.exists(name, name.startsWith('CAP_'))",
            "spec.podTemplate.capabilities are named without CAP_: write IPC_LOCK, not CAP_IPC_LOCK",
        ),
    )

    labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels added to the pods.")
    annotations: dict[str, AnnotationValue] = Field(
        default={}, max_length=32, description="Annotations added to the pods."
    )
    image: str = Field(default="", max_length=512, description="Trainer image; empty means the operator's default.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the image is pulled."
    )
    image_pull_secrets: list[SecretRef] = Field(default=[], max_length=8, description="Secrets to pull the image.")
    env: list[Variable] = Field(
        default=[],
        max_length=64,
        description="Variables added to the pods of every stage: NCCL_..., UCX_...",
    )
    resources: Resources = Field(
        default=Resources(),
        description="Requests and limits of each training pod. A GPU job without a GPU limit gets"
        " nvidia.com/gpu: processesPerNode.",
    )
    stage_resources: Resources = Field(
        default=Resources(),
        description="Requests and limits of the prepare and export pods; CPU and memory only.",
    )
    shm_size: Quantity | None = Field(
        default=None,
        description="Size of /dev/shm in the training pods; left out means 1Gi per process, at most half the memory"
        " limit.",
    )
    volumes: list[Volume] = Field(default=[], max_length=32, description="Volumes added to the pods of every stage.")
    volume_mounts: list[VolumeMount] = Field(
        default=[], max_length=32, description="Where they are mounted in the pods of every stage."
    )
    node_selector: dict[str, LabelValue] = Field(default={}, max_length=32, description="Node labels required.")
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Tolerations.")
    affinity: dict[str, Any] = Field(
        default={},
        description="Affinity, as in a pod. Without a podAntiAffinity of its own a training pod keeps the operator's:"
        " distinct nodes for the pods of an attempt.",
    )
    topology_spread_constraints: list[TopologySpreadConstraint] = Field(
        default=[], max_length=8, description="Spread of the training pods over zones, racks or nodes."
    )
    priority_class_name: OptionalName = Field(default="", description="Priority class.")
    scheduler_name: OptionalName = Field(
        default="",
        description="Scheduler. With `volcano`, or another one beside the coscheduling plug-in's PodGroup API, the"
        " pods of an attempt start together or not at all.",
    )
    service_account_name: OptionalName = Field(
        default="", description="Service account, for a cloud identity (IRSA, Pod Identity)."
    )
    runtime_class_name: OptionalName = Field(default="", description="Runtime class.")
    host_network: bool = Field(
        default=False,
        description=f"Training pods use the node's network, for RDMA without a device plug-in. {ADMIN_ONLY}",
    )
    privileged: bool = Field(
        default=False, description=f"Training pods run privileged, as user 0, with every device. {ADMIN_ONLY}"
    )
    capabilities: list[Annotated[str, Field(pattern=r"^[A-Z][A-Z_]*$", max_length=63)]] = Field(
        default=[],
        max_length=16,
        description=f"Linux capabilities of the training pods, e.g. IPC_LOCK; they run as user 0 then. {ADMIN_ONLY}",
    )
