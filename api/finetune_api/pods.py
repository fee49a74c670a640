"""The part of the spec that speaks Kubernetes: references, quantities, and what a user may set on the pods."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([munkMGTPE]|[KMGTPE]i)?$", max_length=32)]
Amount = Quantity | Annotated[int, Field(ge=0)]
"""A resource quantity: text like 500m or 3Gi, or a whole number."""
LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=16384)]


class SecretRef(Record):
    """A Secret in the job's namespace."""

    name: Name = Field(description="Name of the Secret.")


class ConfigMapKeyRef(Record):
    """One key of a ConfigMap in the job's namespace."""

    name: Name = Field(description="Name of the ConfigMap.")
    key: str = Field(default="ca.crt", pattern=r"^[-._a-zA-Z0-9]+$", max_length=253, description="Key.")


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


class Resources(Record):
    """Requests and limits, as in a container."""

    requests: dict[str, Amount] = Field(default={}, max_length=16, description="Requests by resource name.")
    limits: dict[str, Amount] = Field(default={}, max_length=16, description="Limits by resource name.")


class PodTemplate(Record):
    """What a user may set on the pods."""

    rules: ClassVar = (
        Rule(
            "!has(self.labels) || self.labels.all(k, !k.startsWith('finetune-operator.io/')"
            " && k != 'app.kubernetes.io/managed-by')",
            "spec.podTemplate.labels may not hold finetune-operator.io/... or app.kubernetes.io/managed-by:"
            " the operator sets them; choose other label keys",
        ),
        Rule(
            "(!has(self.stageResources.requests) || self.stageResources.requests.all(k,"
            " k in ['cpu', 'memory', 'ephemeral-storage']))"
            " && (!has(self.stageResources.limits) || self.stageResources.limits.all(k,"
            " k in ['cpu', 'memory', 'ephemeral-storage']))",
            "spec.podTemplate.stageResources takes cpu, memory and ephemeral-storage alone: the prepare and export"
            " pods use no GPU",
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
    resources: Resources = Field(
        default=Resources(),
        description="Requests and limits of each training pod. A GPU job without a GPU limit gets"
        " nvidia.com/gpu: processesPerNode.",
    )
    stage_resources: Resources = Field(
        default=Resources(),
        description="Requests and limits of the prepare and export pods; CPU and memory only.",
    )
    node_selector: dict[str, LabelValue] = Field(default={}, max_length=32, description="Node labels required.")
    tolerations: list[Toleration] = Field(default=[], max_length=32, description="Tolerations.")
    affinity: dict[str, Any] = Field(default={}, description="Affinity, as in a pod.")
    priority_class_name: str = Field(default="", max_length=253, description="Priority class.")
    scheduler_name: str = Field(default="", max_length=253, description="Scheduler.")
    service_account_name: str = Field(
        default="", max_length=253, description="Service account, for a cloud identity (IRSA, Pod Identity)."
    )
    runtime_class_name: str = Field(default="", max_length=253, description="Runtime class.")
