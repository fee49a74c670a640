"""`spec.method.adapter`: small layers between those of the model."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule


class Bottleneck(Record):
    """Small layers behind attention and feed-forward, through which all passes (https://arxiv.org/abs/1902.00751)."""

    rules: ClassVar = (
        Rule(
            "!has(self.reductionFactor) || !has(self.bottleneckSize)",
            "spec.method.adapter takes reductionFactor or bottleneckSize, not both; remove one",
        ),
    )

    placement: Literal["houlsby", "pfeiffer"] = Field(
        default="pfeiffer",
        description="houlsby: behind attention and behind feed-forward; pfeiffer: behind feed-forward alone, half as"
        " many (https://arxiv.org/abs/2005.00247).",
    )
    reduction_factor: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Their width is the model's divided by this. Left out, with bottleneckSize: 16.",
    )
    bottleneck_size: int | None = Field(default=None, ge=1, le=65536, description="Their width.")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        default="relu", description="What is between their two matrices."
    )

    def width(self, hidden_size: int) -> int:
        """Return the width in a model of a hidden size."""
        return self.bottleneck_size or max(1, hidden_size // (self.reduction_factor or 16))
