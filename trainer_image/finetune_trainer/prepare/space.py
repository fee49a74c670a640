"""Whether a training pod's scratch space can hold a run at all, told before any GPU is taken."""

from collections.abc import Sequence

from finetune_api.quantity import parse_quantity
from finetune_api.run import FileEntry
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Plan
from finetune_trainer.full_disk import GIB, too_small

_STATE_BYTES = 8
"""Per trained parameter in a checkpoint, at least: two fp32 moments, whatever else the ZeRO stage adds."""


def require_scratch(
    spec: FineTuneJobSpec, plan: Plan, *, model: Sequence[FileEntry], prepared: Sequence[FileEntry]
) -> None:
    """Raise StageFailure when less is allowed than what a training pod stores for certain."""
    checkpoint = _STATE_BYTES * plan.trainable_parameters // spec.distributed.num_nodes
    copy = max((entry.size for entry in model), default=0) if spec.model.new_tokens else 0
    parts = {
        "base model": sum(entry.size for entry in model),
        "prepared data": sum(entry.size for entry in prepared),
    }
    # Of these two only one is there at a time: the copy is gone before the first checkpoint.
    if copy > checkpoint:
        parts["a copy of a model file for newTokens"] = copy
    else:
        parts["a checkpoint"] = checkpoint
    needed, limit = sum(parts.values()), spec.storage.cache.size_limit
    if needed > parse_quantity(limit):
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        raise too_small(needed, limit, f" ({listed})")
