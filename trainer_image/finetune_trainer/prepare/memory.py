"""How much memory one training process needs: an estimate from the model's sizes, made before any pod is started.

Sources of the terms: ZeRO (https://arxiv.org/abs/1910.02054) for what each stage shards; for activations the
tensors that a decoder layer with fused attention keeps for its backward pass
(https://arxiv.org/abs/2205.05198, section 4, without the attention matrix).
"""

from dataclasses import dataclass

from finetune_trainer.prepare.model_shape import ModelShape

GIB = 1024**3
OPTIMIZER_BYTES = {"adamw": 12, "pagedAdamw32bit": 12, "adamw8bit": 6, "pagedAdamw8bit": 6, "muon": 12}
"""Per trained parameter: fp32 master copy and two moments. Paged ones are counted as if they stayed; muon as if all
learned as the embeddings do, though hidden matrices have one moment.
"""
_FP32_BYTES = 4
_SCALE_BITS = 0.5
"""Per weight of 4 bits, without double quantisation."""
_RUNTIME_BYTES = {"cpu": int(0.8 * GIB), "gpu": int(1.5 * GIB)}
"""A process before the model is there: interpreter, torch, DeepSpeed; on a GPU the CUDA context and NCCL."""
_BUCKET_PARAMETERS = 500_000_000
"""Largest communication bucket of DeepSpeed, in parameters."""
_HEAD_CHUNK_TOKENS = 1024
"""Supervised tokens whose logits exist at one time."""
_HIDDEN_TENSORS = 10
"""Tensors of the hidden size that a layer keeps per token: what goes into norms and products, queries, keys, values,
attention, residuals.
"""
_INTERMEDIATE_TENSORS = 4
"""Tensors of the intermediate size: gate, up, activation, product."""
_HOLES = {"cpu": 0.1, "gpu": 0.0}
"""Of activations: what the holes between them in a process's heap take, measured. For those of a GPU's memory there
is what the planner does not use of it.
"""
_UNPACKED_HOLES = {"cpu": 0.4, "gpu": 0.0}
"""Of quantised weights in full: holes that matrices leave which are unpacked for one product each, measured."""


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
    optimizer_bytes: int = OPTIMIZER_BYTES["adamw"]
    """Bytes of the optimizer per trained parameter."""
    quantized_bits: int = 4
    """Bits of the base's numbers where it is quantised."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process, by use."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.runtime

    def __str__(self) -> str:
        parts = ("weights", "optimizer", "gradients", "activations", "runtime")
        return ", ".join(f"{part} {getattr(self, part) / GIB:.1f} GiB" for part in parts)


def estimate(shape: ModelShape, layout: Layout) -> Estimate:
    """Return what one process needs at its peak."""
    trained, width = shape.trainable_parameters, number_bytes(layout.precision)

    def share(size: int, from_stage: int) -> int:
        return -(-size // layout.world_size) if layout.zero_stage >= from_stage else size

    buckets = 2 * min(trained, _BUCKET_PARAMETERS) * width if layout.world_size > 1 else 0
    return Estimate(
        weights=share((shape.total_parameters - shape.quantized_parameters) * width, 3) + _quantized(shape, layout),
        gradients=share(trained * width, 2) + buckets,
        optimizer=share(trained * layout.optimizer_bytes, 1),
        activations=_activations(shape, layout, width) + _unpacked(shape, layout, width),
        runtime=_RUNTIME_BYTES[layout.device],
    )


def _quantized(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes of quantised weights with their scales: one per 64 weights of 4 bits (bitsandbytes)."""
    bits = layout.quantized_bits + (_SCALE_BITS if layout.quantized_bits == 4 else 0)
    return int(shape.quantized_parameters * bits / 8)


def _unpacked(shape: ModelShape, layout: Layout, width: int) -> int:
    return int(shape.quantized_parameters * width * _UNPACKED_HOLES[layout.device])


def number_bytes(precision: str) -> int:
    """Return the bytes of one number."""
    return 2 if precision == "bf16" else _FP32_BYTES


def _activations(shape: ModelShape, layout: Layout, width: int) -> int:
    tokens = layout.micro_batch_tokens
    per_layer = (_HIDDEN_TENSORS * shape.hidden_size + _INTERMEDIATE_TENSORS * shape.intermediate_size) * width
    layers = shape.layers if shape.layers_kept is None else shape.layers_kept
    recomputed = -(-layers // layout.activation_checkpointing_every) if layout.activation_checkpointing else 0
    # Of layers that are recomputed their input, and one of them in full; of the others all.
    in_full = layers - recomputed + (recomputed > 0)
    kept = tokens * (recomputed * shape.hidden_size * width + in_full * per_layer)
    # Logits, their gradient and the softmax of one chunk.
    outputs = shape.outputs or shape.vocabulary
    head = min(tokens, _HEAD_CHUNK_TOKENS) * outputs * (width + 2 * _FP32_BYTES)
    return int(kept * (1 + _HOLES[layout.device])) + head
