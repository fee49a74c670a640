"""`spec.tracking`: where the numbers of a training are written beside the log and S3's JSON lines."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import Record
from finetune_api.pods import SecretRef

ServerUri = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=1024)]
"""Without a user in it: credentials stand in a Secret."""


class Mlflow(Record):
    """A tracking server of MLflow (https://mlflow.org/docs/latest/ml/tracking/)."""

    uri: ServerUri = Field(description="The tracking server: http:// or https://.")
    experiment: str = Field(
        default="finetune", min_length=1, max_length=256, description="Experiment; made where there is none."
    )
    credentials_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the keys `username` and `password`, or `token`, and `ca.crt` for a server with a"
        " certificate of a private authority; left out means a server that asks for none.",
    )


class Tracking(Record):
    """Where the numbers of a training go too. What cannot be written is told in the log and ends nothing."""

    tensorboard: bool = Field(
        default=False, description="Write TensorBoard's event files, below checkpoint.uri, tensorboard/."
    )
    mlflow: Mlflow | None = Field(default=None, description="Write to an MLflow run; left out means none.")
