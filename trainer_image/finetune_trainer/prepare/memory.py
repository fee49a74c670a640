"""How much memory one training process needs: an estimate from the model's sizes, made before any pod is started.

Sources of the terms: ZeRO (https://arxiv.org/abs/1910.02054) for what each stage shards; for activations the
tensors that a decoder layer with fused attention keeps for its backward pass
(https://arxiv.org/abs/2205.05198, section 4, without the attention matrix).

A step has two peaks, and the higher one counts. At the head all activations are there, and what the head makes. In
the update no activation is left, but a copy of the gradients in fp32, beside those of 16 bits they were made of: at
ZeRO stage 0 of all of them, at stages 1 and 2 of this process's share, at stage 3 of a part of it at a time. Those of
several micro-batches are summed up in fp32 from the first on: at stages 0 and 2 the update takes them as they are.

An optimizer that is offloaded (https://arxiv.org/abs/2101.06840) has its state, the master weights and those
gradients on the host, whatever the step is at.
"""

from dataclasses import dataclass, replace

from finetune_trainer.objectives.head import TILE_BYTES
from finetune_trainer.prepare.model_shape import ModelShape

GIB = 1024**3
MOMENT_BYTES = {"adamw": 8, "pagedAdamw32bit": 8, "adamw8bit": 2, "pagedAdamw8bit": 2, "muon": 8}
"""Of the two moments of a trained parameter. Paged ones are counted as if they stayed; muon as if all learned as the
embeddings do, though hidden matrices have one moment.
"""
_FP32_BYTES = 4
_SCALE_BITS = 0.5
"""Per weight of 4 bits, without double quantisation."""
_RUNTIME_BYTES = {"cpu": int(1.1 * GIB), "gpu": int(1.5 * GIB)}
"""A process without the model: interpreter, torch, DeepSpeed, measured with the pages of their files; on a GPU the
CUDA context and NCCL.
"""
LARGEST_BUCKET = 200_000_000
"""Elements per reduction bucket; DeepSpeed allocates buffers of this size."""
_REDUCED_AT_ONCE = 500_000_000
"""Gradients that DeepSpeed copies together at stage 0 to sum them up over the processes, in fp32 and in 16 bits."""
_SUB_GROUP_PARAMETERS = 1_000_000_000
"""Of a process's share, how many parameters DeepSpeed updates at a time at stage 3."""
_HIDDEN_TENSORS = 10
"""Tensors of the hidden size that a layer keeps per token: what goes into norms and products, queries, keys, values,
attention, residuals.
"""
_INTERMEDIATE_TENSORS = 4
"""Tensors of the intermediate size: gate, up, activation, product."""
_HOLES = {"cpu": 0.2, "gpu": 0.0}
"""Of activations: what the holes between them in a process's heap take, measured when they grow no more, after six
steps or so. For those of a GPU's memory there is what the planner does not use of it.
"""
_PINNED_SHARE = 1.5
"""Of tensors on the host that a GPU copies from and to: torch makes room for them in powers of two."""
_UNPACKED_HOLES = {"cpu": 0.8, "gpu": 0.0}
"""Of quantised weights in full: holes that matrices leave which are unpacked for one product each, measured alike."""


@dataclass(frozen=True)
class Layout:
    """What of a run decides on its memory."""

    device: str
    precision: str
    zero_stage: int
    world_size: int
    micro_batch_tokens: int
    """Tokens of the largest micro-batch."""
    activation_checkpointing: bool
    activation_checkpointing_every: int = 1
    """Activations of every so many-th layer are recomputed."""
    moment_bytes: int = MOMENT_BYTES["adamw"]
    """Bytes of the optimizer's moments per trained parameter."""
    quantized_bits: int = 4
    """Bits of the base's numbers where it is quantised."""
    offload_optimizer: bool = False
    """Whether the optimizer's state is on the host."""
    accumulates: bool = False
    """Whether a step has several micro-batches, whose gradients are summed up in fp32."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process, by use."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """With what the head makes."""
    update: int
    """Gradients in fp32, which are there when activations are not."""
    runtime: int
    host: int = 0
    """Memory of the host, beside that of the device."""

    @property
    def state(self) -> int:
        """What is there all the time, however small the micro-batches: no choice of theirs needs less."""
        return self.weights + self.gradients + self.optimizer + self.runtime

    @property
    def total(self) -> int:
        """The peak."""
        return self.state + max(self.activations, self.update)

    def __str__(self) -> str:
        peak = "activations" if self.activations >= self.update else "update"
        parts = ("weights", "optimizer", "gradients", peak, "runtime")
        return ", ".join(f"{part} {getattr(self, part) / GIB:.1f} GiB" for part in parts)


def estimate(shape: ModelShape, layout: Layout) -> Estimate:
    """Return what one process needs at its peak."""
    trained, width = shape.trainable_parameters, number_bytes(layout.precision)

    def share(size: int, from_stage: int) -> int:
        return -(-size // layout.world_size) if layout.zero_stage >= from_stage else size

    # In fp32, stage 0 leaves model and optimizer as they are, and stage 3 updates its shares of the weights in place.
    master = 0 if width == _FP32_BYTES and layout.zero_stage in (0, 3) else _FP32_BYTES
    is_divided = layout.world_size > 1 or layout.zero_stage > 0
    buckets = 2 * min(trained, LARGEST_BUCKET) * width if is_divided else 0
    made = Estimate(
        weights=share((shape.total_parameters - shape.quantized_parameters) * width, 3) + _quantized(shape, layout),
        gradients=share(trained * _gradient_bytes(layout, width), 2) + buckets,
        optimizer=share(trained * (master + layout.moment_bytes), 1),
        activations=_kept(shape, layout, width) + _head(shape, layout, width) + _unpacked(shape, layout, width),
        update=_update(share(trained, 1), layout, width),
        runtime=_RUNTIME_BYTES[layout.device],
    )
    return _offloaded(made, share(trained, 1), layout, width) if layout.offload_optimizer else made


def _offloaded(made: Estimate, share: int, layout: Layout, width: int) -> Estimate:
    """Return the estimate with the optimizer on the host, given the parameters that this process updates.

    There are the moments, and what a GPU copies from and to: master weights and gradients in fp32, and at stage 3 the
    sum of gradients over micro-batches, else the new weights, and that sum if it is of 16 bits. On the device,
    gradients are counted as before.
    """
    summed = _FP32_BYTES if layout.accumulates else width
    others = summed if layout.zero_stage == 3 else width * (1 if summed > width else 2)
    copied = share * (2 * _FP32_BYTES + others)
    moments = share * layout.moment_bytes
    if layout.device == "cpu":
        return replace(made, optimizer=moments + copied, update=0)
    return replace(made, optimizer=0, update=0, host=int(moments + _PINNED_SHARE * copied) + _RUNTIME_BYTES["cpu"])


def _gradient_bytes(layout: Layout, width: int) -> int:
    """Return the bytes of a gradient on the device from its micro-batch to the end of the step."""
    is_on_host = layout.offload_optimizer and layout.zero_stage == 3
    return _FP32_BYTES if layout.accumulates and not is_on_host else width


def _update(share: int, layout: Layout, width: int) -> int:
    """Return the bytes of the gradients' copies, given the parameters that this process updates."""
    if layout.zero_stage == 0 and width == _FP32_BYTES:
        return 0
    if layout.zero_stage == 0 and layout.accumulates:
        return min(share, _REDUCED_AT_ONCE) * (_FP32_BYTES + width) if layout.world_size > 1 else 0
    if layout.zero_stage == 2 and layout.accumulates and width < _FP32_BYTES:
        return 0
    return (min(share, _SUB_GROUP_PARAMETERS) if layout.zero_stage == 3 else share) * _FP32_BYTES


def _quantized(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of quantised weights with their scales: one per 64 weights of 4 bits (bitsandbytes)."""
    bits = layout.quantized_bits + (_SCALE_BITS if layout.quantized_bits == 4 else 0)
    return int(shape.quantized_parameters * bits / 8)


def _unpacked(shape: ModelShape, layout: Layout, width: int) -> int:
    return int(shape.quantized_parameters * width * _UNPACKED_HOLES[layout.device])


def number_bytes(precision: str) -> int:
    """Return the bytes of one number."""
    return 2 if precision == "bf16" else _FP32_BYTES


def _kept(shape: ModelShape, layout: Layout, width: int) -> int:
    """Return the bytes of the activations that the layers keep for the backward pass."""
    tokens = layout.micro_batch_tokens
    per_layer = (_HIDDEN_TENSORS * shape.hidden_size + _INTERMEDIATE_TENSORS * shape.intermediate_size) * width
    layers = shape.layers if shape.layers_kept is None else shape.layers_kept
    recomputed = -(-layers // layout.activation_checkpointing_every) if layout.activation_checkpointing else 0
    # Of layers that are recomputed their input, and one of them in full; of the others all.
    in_full = layers - recomputed + (recomputed > 0)
    kept = tokens * (recomputed * shape.hidden_size * width + in_full * per_layer)
    return int(kept * (1 + _HOLES[layout.device]))


def _head(shape: ModelShape, layout: Layout, width: int) -> int:
    """Return the most that the head needs beside the layers' activations, in bytes.

    Going forward that is one tile's logits and an intermediate of their size, both fp32, beside the fp32 sum of the
    gradients of a head that is trained; going back that sum beside its cast. All tokens count as supervised.
    """
    outputs = shape.outputs or shape.vocabulary
    logits = min(layout.micro_batch_tokens * outputs, TILE_BYTES // _FP32_BYTES)
    gradient = shape.trained_head * _FP32_BYTES
    cast = shape.trained_head * width if width < _FP32_BYTES else 0
    return gradient + max(2 * logits * _FP32_BYTES, cast)
