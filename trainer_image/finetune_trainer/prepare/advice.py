"""What the spec can give up so that a training fits: the end of every sentence that says it does not."""

from collections.abc import Iterator

from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Plan

_SMALLER = {"full": "lora", "lora": "qlora"}
"""Methods that need less, by method."""


def advice(spec: FineTuneJobSpec, least: Plan) -> str:
    """Return what to change, given the plan that needs least of those that the spec allows."""
    found = list(_changes(spec, least)) or ["take a smaller model"]
    return f"{', '.join(found[:-1])} or {found[-1]}" if len(found) > 1 else found[0]


def _changes(spec: FineTuneJobSpec, least: Plan) -> Iterator[str]:
    on_gpu = spec.distributed.device == "gpu"
    if not on_gpu:
        yield "raise spec.podTemplate.resources.limits.memory"
    if spec.method.type in _SMALLER:
        yield f"set spec.method.type: {_SMALLER[spec.method.type]}"
    can_shard = spec.can_shard_weights and spec.training.optimizer.can_shard
    if least.world_size > 1 and least.zero_stage < 3 and can_shard and not spec.training.compile:
        yield "set spec.distributed.zeroStage: 3"
    if not least.activation_checkpointing or least.activation_checkpointing_every > 1:
        yield "set spec.training.activationCheckpointing: on"
    if least.micro_batch_size > 1:
        yield "set spec.training.microBatchSize: 1"
    if on_gpu and can_shard and spec.distributed.zero_stage != 0:
        yield "raise spec.distributed.processesPerNode or numNodes"
    elif not on_gpu and least.world_size == spec.distributed.processes_per_node and least.zero_stage > 0:
        yield "raise spec.distributed.numNodes"
