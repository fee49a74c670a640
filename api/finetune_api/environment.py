"""Environment variables that a user adds to the pods: NCCL_*, UCX_*, proxies, and what else a cluster needs."""

from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.fields import Key, Name, Quantity

RESERVED = (
    *("HOME", "PYTHONSAFEPATH", "DS_ACCELERATOR"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables that the operator or the launcher sets, beside FINETUNE_...."""
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
FieldPath = Annotated[
    str,
    Field(
        pattern=r"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]"
        r"|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs))$",
        max_length=400,
    ),
]


class KeyRef(Record):
    """One key of a ConfigMap or Secret in the job's namespace."""

    name: Name = Field(description="Its name.")
    key: Key = Field(description="Key.")
    optional: bool = Field(default=False, description="true: the pod starts without it too.")


class FieldRef(Record):
    """A field of the pod itself."""

    field_path: FieldPath = Field(description="Path, e.g. status.hostIP, spec.nodeName or metadata.labels['team'].")


class ResourceRef(Record):
    """A request or limit of the container."""

    resource: Annotated[str, Field(pattern=r"^(limits|requests)\.[-.a-z0-9A-Z]+$", max_length=253)] = Field(
        description="E.g. limits.memory."
    )
    divisor: Quantity = Field(default="1", description="Unit of the value.")


class VariableSource(Record):
    """Where the value of a variable comes from."""

    rules: ClassVar = (
        Rule(
            "!has(self.secretKeyRef)",
            "spec.podTemplate.env[].valueFrom.secretKeyRef is refused: every process of a pod can read its"
            " environment, and it ends up in logs and dumps; mount the Secret as a file with"
            " spec.podTemplate.volumes and volumeMounts",
        ),
        Rule(
            "[has(self.configMapKeyRef), has(self.fieldRef), has(self.resourceFieldRef), has(self.secretKeyRef)]"
            ".filter(given, given).size() == 1",
            "spec.podTemplate.env[].valueFrom takes exactly one of configMapKeyRef, fieldRef and resourceFieldRef",
        ),
    )

    config_map_key_ref: KeyRef | None = Field(default=None, description="Key of a ConfigMap.")
    field_ref: FieldRef | None = Field(default=None, description="Field of the pod.")
    resource_field_ref: ResourceRef | None = Field(default=None, description="Request or limit of the container.")
    secret_key_ref: KeyRef | None = Field(
        default=None, description="Refused: no secret in an environment; mount the Secret as a volume."
    )


class Variable(Record):
    """An environment variable, as in a container."""

    rules: ClassVar = (
        Rule(
            f"!self.name.startsWith('FINETUNE_') && !(self.name in {list(RESERVED)})",
            f"spec.podTemplate.env may not set FINETUNE_..., {', '.join(RESERVED[:-1])} or {RESERVED[-1]}:"
            " the operator sets them",
        ),
        Rule(
            f"!(self.name in {list(CREDENTIALS)})",
            f"spec.podTemplate.env may not set {', '.join(CREDENTIALS[:-1])} or {CREDENTIALS[-1]}: no secret in an"
            " environment; put the credentials into a Secret and name it in spec.storage.s3.credentialsSecretRef",
        ),
        Rule(
            "!has(self.value) || self.value == '' || !has(self.valueFrom)",
            "spec.podTemplate.env[]: value and valueFrom exclude each other; remove one",
        ),
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][-._A-Za-z0-9]*$", max_length=128)] = Field(description="Name.")
    value: str = Field(
        default="", max_length=8192, description="Value; $(NAME) stands for a variable that is set before it."
    )
    value_from: VariableSource | None = Field(default=None, description="Source of the value, in place of `value`.")
