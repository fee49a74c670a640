"""`spec.method`: how the model is adapted."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule

ModuleName = Annotated[str, Field(min_length=1, max_length=253)]


class Lora(Record):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the two low-rank matrices.")
    alpha: float = Field(default=32, gt=0, le=4096, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: list[ModuleName] = Field(
        default=["all-linear"],
        min_length=1,
        max_length=64,
        description='Names of the modules that get an adapter; ["all-linear"]: every linear layer but the head.',
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732)."
    )
    modules_to_save: list[ModuleName] = Field(
        default=[],
        max_length=16,
        description="Modules trained in full beside the adapter, e.g. embed_tokens.",
    )


class Method(Record):
    """How the model is adapted."""

    rules: ClassVar = (
        Rule(
            "self.type == 'lora' || !has(self.lora)",
            "spec.method.lora belongs to type lora; remove the lora block or set spec.method.type: lora",
        ),
    )

    type: Literal["full", "lora"] = Field(
        default="lora", description="full trains every weight; lora trains low-rank adapters."
    )
    lora: Lora | None = Field(default=None, description="Settings of type lora; left out means the defaults.")
