"""`spec.model`: the base model."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import Record
from finetune_api.uris import S3Uri

NewToken = Annotated[str, Field(min_length=1, max_length=128)]


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
    new_tokens: list[NewToken] = Field(
        default=[],
        max_length=1024,
        description="Tokens that are added to the tokenizer, each with a row of its own in embeddings and head: words"
        " or marks that rows are full of. They begin as the mean of all tokens, and are trained.",
    )
