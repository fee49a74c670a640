"""`spec.training`: length, batch, learning rate, precision."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.spec.auto import Auto

Decay = Annotated[float, Field(ge=0, lt=1)]


LAYOUT = frozenset({"micro_batch_size", "activation_checkpointing", "compile", "loss_spike"})
"""Fields of `Training` that say how a step is computed or watched and not what it gives: attempts of a run may differ
there."""


class Optimizer(Record):
    """AdamW (https://arxiv.org/abs/1711.05101), or Muon (https://kellerjordan.github.io/posts/muon/)."""

    type: Literal["adamw", "adamw8bit", "pagedAdamw8bit", "pagedAdamw32bit", "muon"] = Field(
        default="adamw",
        description="adamw keeps its state in 32 bits; 8-bit states take a quarter of the memory; paged ones are"
        " moved to the host's memory when the GPU's is short. muon makes the updates of matrices orthogonal, and has"
        " adamw for embeddings, head and vectors; it needs ZeRO stage 0.",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled weight decay.")
    betas: list[Decay] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2, description="Decay of the two moment estimates."
    )
    eps: float = Field(default=1e-8, gt=0, le=1, description="Term added to the denominator.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, le=1e6, description="Gradients are clipped to this norm; 0 turns clipping off."
    )

    @property
    def can_reshard(self) -> bool:
        """Whether its state can be divided among other processes: 8-bit states are scaled in blocks of a shard."""
        return self.type == "adamw"

    @property
    def can_offload(self) -> bool:
        """Whether its state can be kept in the host's memory: others are for a GPU, or see whole matrices."""
        return self.type == "adamw"

    @property
    def can_shard(self) -> bool:
        """Whether ZeRO can divide its state: Muon has to see whole matrices."""
        return self.type != "muon"


class LossSpike(Record):
    """When a loss that jumps ends the training."""

    threshold: float = Field(
        default=3.0, gt=1, le=1000, description="How many times the median loss of the steps before is too much."
    )
    window: int = Field(
        default=50, ge=2, le=1000, description="Steps of the median; before so many are done nothing is judged."
    )


class Training(Record):
    """The optimizer's side of the run."""

    rules: ClassVar = (
        Rule(
            "has(self.epochs) != has(self.maxSteps)",
            "set exactly one of spec.training.epochs and spec.training.maxSteps",
        ),
    )

    epochs: float | None = Field(default=None, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(default=None, ge=1, le=100_000_000, description="Optimizer steps.")
    global_batch_size: int = Field(
        default=64,
        ge=1,
        le=65536,
        description="Sequences per optimizer step over all processes: packed sequences when data.packing is on,"
        " rows when it is off. Never changed by the number of processes.",
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        default="auto", description="Sequences per forward pass and process, or auto."
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=10, description="Peak learning rate.")
    scheduler: Literal["linear", "cosine", "constant", "wsd"] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up; wsd stays at the peak and falls over the last"
        " steps alone (decay).",
    )
    decay: float = Field(
        default=0.1,
        ge=0,
        le=1_000_000,
        description="Steps at the end over which wsd falls: below 1 a share of the steps, from 1 a number of steps.",
    )
    min_learning_rate_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Share of the peak that the learning rate falls to; not for constant."
    )
    warmup: float = Field(
        default=0.03,
        ge=0,
        le=1_000_000,
        description="Warm-up: below 1 a share of the steps, from 1 a number of steps.",
    )
    layerwise_learning_rate_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Each layer learns at so much of the rate of the layer above it, the embeddings at the least"
        " (https://arxiv.org/abs/1801.06146); 1: all learn alike.",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="The optimizer and its settings.")
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the target that is spread over the whole vocabulary (https://arxiv.org/abs/1512.00567);"
        " the reported training loss holds it, evaluations do not.",
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="balanced: a row counts in the loss by rows / (classes x rows of its class), so that rare classes"
        " are not drowned (objective classification).",
    )
    neftune_noise_alpha: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Noise on the embeddings while training (https://arxiv.org/abs/2310.05914), 5 to 15; 0: none.",
    )
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="Number format of the computation.")
    activation_checkpointing: Literal["auto", "on", "selective", "off"] = Field(
        default="auto",
        description="Recompute activations in the backward pass to save memory: on those of every layer, selective"
        " those of every second one.",
    )
    compile: bool = Field(
        default=False,
        description="Compile each layer of the model with torch.compile: faster steps on GPUs, after a minute or more"
        " at the start. Needs a C++ compiler in the trainer's image, and ZeRO stage 0, 1 or 2.",
    )
    loss_spike: LossSpike | None = Field(
        default=None,
        description="End the training, with the rows that are suspected, at a step whose loss lies far above those"
        " before it; left out means only when it is no number.",
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of data order, dropout and adapters.")
    deterministic: bool = Field(
        default=False,
        description="Take only operations that give the same bits every time on the same device; slower on GPUs.",
    )
