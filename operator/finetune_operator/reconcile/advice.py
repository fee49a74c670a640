"""What a user can change when a failure would come again: fields of the spec, by name."""

from finetune_api.reasons import Reason
from finetune_api.stage import Stage
from finetune_api.status import CheckpointRef

TRAIN_MEMORY = (
    "raise spec.podTemplate.resources.limits.memory, or lower spec.training.microBatchSize or spec.data.maxLength,"
    " or raise spec.distributed.zeroStage"
)
STAGE_MEMORY = "raise spec.podTemplate.stageResources.limits.memory"
DEVICE_MEMORY = (
    "lower spec.training.microBatchSize or spec.data.maxLength, set spec.training.activationCheckpointing: on,"
    " or raise spec.distributed.zeroStage or spec.distributed.numNodes"
)
SCRATCH_SPACE = "raise spec.storage.cache.sizeLimit"
DIVERGENCE = "lower spec.training.learningRate or raise spec.training.warmup"


def failure_advice(reason: Reason, stage: Stage, checkpoint: CheckpointRef | None) -> str:
    """Return what helps against a failure that no retry mends, or nothing; `checkpoint` is the newest commit."""
    match reason:
        case Reason.OUT_OF_MEMORY:
            return TRAIN_MEMORY if stage is Stage.TRAIN else STAGE_MEMORY
        case Reason.OUT_OF_DEVICE_MEMORY:
            return DEVICE_MEMORY
        case Reason.DIVERGED if checkpoint:
            return f"{DIVERGENCE}; the newest checkpoint is step {checkpoint.step} at {checkpoint.uri}"
        case Reason.DIVERGED:
            return DIVERGENCE
        case _:
            return ""
