"""From a micro-batch of the data package to the model's inputs on the device."""

import torch

from finetune_trainer.data.batches import MicroBatch
from finetune_trainer.model.attention import Backend, documents
from finetune_trainer.objectives import Inputs


def inputs_of(batch: MicroBatch, device: torch.device, backend: Backend) -> Inputs:
    """Move a micro-batch to the device."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=True)

    return Inputs(
        input_ids=move(batch.input_ids),
        position_ids=move(batch.position_ids),
        documents=documents(batch.cu_seqlens, device, backend),
        supervised_positions=move(batch.supervised_positions),
        labels=move(batch.labels),
    )
