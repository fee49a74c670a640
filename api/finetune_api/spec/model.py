"""`spec.model`: the base model."""

from pydantic import Field

from finetune_api.base import Record
from finetune_api.uris import S3Uri


class Model(Record):
    """The base model."""

    uri: S3Uri = Field(
        description="Prefix in S3 that holds the model: config.json, tokenizer files and *.safetensors weights."
    )
    chat_template: str = Field(
        default="",
        max_length=65536,
        description="Jinja chat template that replaces the tokenizer's own; empty keeps the tokenizer's.",
    )
