"""`spec.method`: how the model is adapted."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.spec.bottleneck import Bottleneck
from finetune_api.spec.soft_prompts import Prefix, Prompt
from finetune_api.uris import S3Uri

ModuleName = Annotated[str, Field(min_length=1, max_length=253)]
EVERY_LINEAR = "all-linear"
"""Alone in targetModules: every linear layer but the head. peft says it by the same word."""
MethodType = Literal["full", "freeze", "lora", "qlora", "ia3", "prompt", "prefix", "adapter"]


class Lora(Record):
    """Low-rank adapters (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the two low-rank matrices.")
    alpha: float = Field(default=32, gt=0, le=4096, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: list[ModuleName] = Field(
        default=[EVERY_LINEAR],
        min_length=1,
        max_length=64,
        description="Modules that get an adapter, by the end of their name (q_proj, layers.0.mlp.up_proj);"
        ' ["all-linear"]: every linear layer but the head.',
    )
    use_rslora: bool = Field(
        default=False, description="Scale by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732)."
    )
    use_dora: bool = Field(
        default=False,
        description="Train the length of each weight's columns apart from their direction"
        " (https://arxiv.org/abs/2402.09353): closer to full training at small ranks, but slower.",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        le=1024,
        description="The second matrix, which begins at zero, learns at so many times the learning rate of the first"
        " (LoRA+, https://arxiv.org/abs/2402.12354); 16 is usual, with a lower learning rate.",
    )
    modules_to_save: list[ModuleName] = Field(
        default=[],
        max_length=16,
        description="Modules trained in full beside the adapter, by the end of their name, e.g. embed_tokens.",
    )

    @property
    def adapts_every_linear(self) -> bool:
        """Whether no modules are named; the API server writes that default into every block."""
        return self.target_modules == [EVERY_LINEAR]


class InitialAdapter(Record):
    """An adapter that is trained further."""

    uri: S3Uri = Field(
        description="Prefix in S3 that holds it: adapter_config.json and adapter_model.safetensors of a LoRA adapter"
        " of peft, e.g. adapter/ of an earlier result."
    )


class Quantization(Record):
    """How the frozen base model is stored (bitsandbytes, https://arxiv.org/abs/2305.14314)."""

    bits: int = Field(
        default=4,
        ge=4,
        le=8,
        multiple_of=4,
        description="Bits per weight: 4 saves most memory; 8 (LLM.int8) is nearer to the model.",
    )
    quant_type: Literal["nf4", "fp4"] = Field(
        default="nf4", description="4-bit numbers: nf4 is made for weights that are normally distributed."
    )
    double_quant: bool = Field(
        default=True, description="Also quantise the scales of 4-bit weights: 0.4 bits less per weight."
    )


class Freeze(Record):
    """Which parts of the model are trained while the rest stays as it is."""

    trainable_layers: int = Field(default=2, ge=0, le=1024, description="The last so many layers are trained.")
    trainable_modules: list[ModuleName] = Field(
        default=[],
        max_length=64,
        description="Modules trained beside them, by the end of their name or a shell pattern of it: lm_head, norm,"
        " layers.0.mlp, layers.[0-3].mlp.",
    )


class Ia3(Record):
    """Learned factors of keys, values and feed-forward activations (https://arxiv.org/abs/2205.05638)."""

    rules: ClassVar = (
        Rule(
            "!has(self.feedforwardModules) || self.feedforwardModules.all(name, has(self.targetModules) &&"
            " name in self.targetModules)",
            "spec.method.ia3.feedforwardModules must stand in targetModules, too; add them there, or leave both out",
        ),
    )

    target_modules: list[ModuleName] = Field(
        default=[],
        max_length=64,
        description="Modules whose output is scaled; empty: those that peft names for the model's architecture.",
    )
    feedforward_modules: list[ModuleName] = Field(
        default=[],
        max_length=64,
        description="Those of targetModules whose input is scaled instead; peft names them if both are empty.",
    )


class Method(Record):
    """How the model is adapted."""

    rules: ClassVar = (
        Rule(
            "self.type in ['lora', 'qlora'] || !has(self.lora)",
            "spec.method.lora belongs to types lora and qlora; remove the lora block or set spec.method.type: lora",
        ),
        Rule(
            "self.type in ['lora', 'qlora'] || !has(self.initialAdapter)",
            "spec.method.initialAdapter is a LoRA adapter; remove it or set spec.method.type: lora or qlora",
        ),
        Rule(
            "self.type == 'qlora' || !has(self.quantization)",
            "spec.method.quantization belongs to type qlora; remove the block or set spec.method.type: qlora",
        ),
        Rule(
            "!has(self.quantization) || self.quantization.bits == 4 || !has(self.lora) || !self.lora.useDora",
            "spec.method.lora.useDora works on 4 bits, not on 8; set spec.method.quantization.bits: 4 or"
            " remove useDora",
        ),
        Rule(
            "self.type == 'freeze' || !has(self.freeze)",
            "spec.method.freeze belongs to type freeze; remove the block or set spec.method.type: freeze",
        ),
        Rule(
            "self.type == 'ia3' || !has(self.ia3)",
            "spec.method.ia3 belongs to type ia3; remove the block or set spec.method.type: ia3",
        ),
        Rule(
            "self.type == 'prompt' || !has(self.prompt)",
            "spec.method.prompt belongs to type prompt; remove the block or set spec.method.type: prompt",
        ),
        Rule(
            "self.type == 'prefix' || !has(self.prefix)",
            "spec.method.prefix belongs to type prefix; remove the block or set spec.method.type: prefix",
        ),
        Rule(
            "self.type == 'adapter' || !has(self.adapter)",
            "spec.method.adapter belongs to type adapter; remove the block or set spec.method.type: adapter",
        ),
    )

    type: MethodType = Field(
        default="lora",
        description="full trains every weight; freeze trains some layers; lora trains low-rank adapters; qlora does"
        " so on a base of 4 or 8 bits; ia3 trains a few factors per layer; prompt and prefix train virtual tokens"
        " that stand before every row; adapter trains small layers between those of the model.",
    )
    lora: Lora | None = Field(default=None, description="Settings of lora and qlora; left out means the defaults.")
    initial_adapter: InitialAdapter | None = Field(
        default=None,
        description="Adapter that lora or qlora trains further; its own file says rank, alpha and modules. Left out"
        " means a new one.",
    )
    quantization: Quantization | None = Field(
        default=None, description="Settings of qlora's base model; left out means nf4 with double quantisation."
    )
    freeze: Freeze | None = Field(default=None, description="Settings of freeze; left out means the last 2 layers.")
    ia3: Ia3 | None = Field(default=None, description="Settings of ia3; left out means what peft names.")
    prompt: Prompt | None = Field(default=None, description="Settings of prompt; left out means 20 virtual tokens.")
    prefix: Prefix | None = Field(default=None, description="Settings of prefix; left out means 20 virtual tokens.")
    adapter: Bottleneck | None = Field(
        default=None, description="Settings of adapter; left out means pfeiffer with a reduction factor of 16."
    )

    @property
    def can_shard_weights(self) -> bool:
        """Whether ZeRO stage 3 can hold the weights in parts."""
        return self.type != "qlora" and not (self.lora is not None and self.lora.use_dora)

    @property
    def virtual_tokens(self) -> int:
        """How many trained tokens stand before every row."""
        method = self.spelled_out()
        block = method.prompt or method.prefix
        return 0 if block is None else block.num_virtual_tokens

    def spelled_out(self) -> "Method":
        """Return the method with every block of its type, the defaults of those left out written down.

        An initial adapter has settings of its own, so that none are written down for lora beside it.
        """
        blocks: dict[str, Record] = {
            "lora": self.lora or Lora(),
            "quantization": self.quantization or Quantization(),
            "freeze": self.freeze or Freeze(),
            "ia3": self.ia3 or Ia3(),
            "prompt": self.prompt or Prompt(),
            "prefix": self.prefix or Prefix(),
            "adapter": self.adapter or Bottleneck(),
        }
        written = [name for name in _BLOCKS[self.type] if name != "lora" or self.initial_adapter is None]
        return self.model_copy(update={name: blocks[name] for name in written})


_BLOCKS: dict[str, tuple[str, ...]] = {
    "full": (),
    "freeze": ("freeze",),
    "lora": ("lora",),
    "qlora": ("lora", "quantization"),
    "ia3": ("ia3",),
    "prompt": ("prompt",),
    "prefix": ("prefix",),
    "adapter": ("adapter",),
}
