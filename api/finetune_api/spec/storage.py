"""`spec.checkpoint`, `spec.output` and `spec.storage`: what lies where."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.fields import Quantity
from finetune_api.pods import ConfigMapKeyRef, SecretRef
from finetune_api.uris import S3Uri


class Checkpoint(Record):
    """Where and when the state of the run is committed."""

    uri: S3Uri = Field(description="Prefix in S3 for checkpoints, the token cache and the metrics of the run.")
    every_steps: int = Field(default=0, ge=0, le=1_000_000, description="Commit every so many steps; 0 turns it off.")
    every_minutes: float = Field(
        default=10, ge=0, le=1440, description="Commit every so many minutes; 0 turns it off."
    )
    keep_last: int = Field(default=2, ge=1, le=100, description="Newest commits that are kept.")
    keep_best: int = Field(default=1, ge=0, le=100, description="Commits of lowest validation loss that are kept.")
    resume: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: a restarted attempt goes on from the newest whole commit of this job.",
    )


class Output(Record):
    """Where the result goes."""

    uri: S3Uri = Field(description="Prefix in S3 for the result; it must not hold another job's result.")
    merge: bool = Field(default=False, description="Also write the base model with the adapter merged into it.")


class S3Storage(Record):
    """The S3 server."""

    rules: ClassVar = (
        Rule(
            "!has(self.endpoint) || self.endpoint == '' || self.endpoint.startsWith('http://') || self.endpoint.startsWith('https://')",
            "spec.storage.s3.endpoint must start with http:// or https://, or be empty for AWS",
        ),
    )

    endpoint: str = Field(default="", max_length=1024, description="URL of the S3 server; empty means AWS.")
    region: str = Field(default="us-east-1", min_length=1, max_length=64, description="Region.")
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret whose key `credentials` is an AWS shared credentials file; left out means the pod's own"
        " identity (podTemplate.serviceAccountName).",
    )
    ca_bundle_config_map_ref: ConfigMapKeyRef | None = Field(
        default=None, description="PEM bundle that signs the server's certificate."
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="auto: path for an own endpoint, virtual for AWS."
    )


class Cache(Record):
    """Scratch space of a pod for model, data and staged checkpoints: an emptyDir."""

    size_limit: Quantity = Field(default="200Gi", description="Most that a pod may store.")


class Storage(Record):
    """S3 and scratch space."""

    s3: S3Storage = Field(default=S3Storage(), description="The S3 server and how to reach it.")
    cache: Cache = Field(default=Cache(), description="Scratch space of each pod.")
