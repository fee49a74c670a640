"""`spec.method.prompt` and `spec.method.prefix`: trained virtual tokens before every row."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule


class Prompt(Record):
    """Virtual tokens whose embeddings are trained (https://arxiv.org/abs/2104.08691)."""

    rules: ClassVar = (
        Rule(
            "(self.init == 'text') == (has(self.initText) && size(self.initText) > 0)",
            "spec.method.prompt.initText and init: text belong together; set both, or neither",
        ),
    )

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096, description="Virtual tokens before every row.")
    init: Literal["random", "text"] = Field(
        default="random",
        description="What they begin as: tokens of the vocabulary drawn at random, or those of initText.",
    )
    init_text: str = Field(
        default="",
        max_length=16384,
        description="Text they begin as, e.g. an instruction; repeated or cut to the number of virtual tokens.",
    )


class Prefix(Record):
    """Virtual tokens whose keys and values are trained in every layer (https://arxiv.org/abs/2101.00190)."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096, description="Virtual tokens before every row.")
    projection_size: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Width of a network of two layers that makes keys and values while they are trained: steadier,"
        " with more to train, and the result is as small. Left out means that they are trained directly.",
    )
