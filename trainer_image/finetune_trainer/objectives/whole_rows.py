"""Rows as a micro-batch that tries all that can be predicted of them, whatever a data set supervises."""

from collections.abc import Sequence

import torch

from finetune_trainer.model import attention
from finetune_trainer.objectives.module import Inputs, LossModule


def whole_rows(
    loss: LossModule, rows: Sequence[torch.Tensor], backend: attention.Backend, *, virtual_tokens: int = 0
) -> Inputs:
    """Return rows, int64 [T] each and on one device, one after the other, with the targets of `targets_of`."""
    device = rows[0].device
    bounds = torch.tensor([0, *map(len, rows)]).cumsum(0)
    positions, labels = zip(*map(loss.targets_of, rows), strict=True)
    return Inputs(
        input_ids=torch.cat(list(rows))[None],
        position_ids=torch.cat([torch.arange(len(row), device=device) for row in rows])[None],
        documents=attention.documents(bounds.int(), device, backend, virtual_tokens=virtual_tokens),
        supervised_positions=torch.cat(
            [place + start for place, start in zip(positions, bounds[:-1].tolist(), strict=True)]
        ),
        labels=torch.cat(labels),
    )
