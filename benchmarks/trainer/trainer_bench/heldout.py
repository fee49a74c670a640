"""How well a model predicts the held-out rows: the same plain code for every contender."""

from typing import Any

import torch

from trainer_bench.rows import rows_of
from trainer_bench.task import Task


def row_loss(model: Any, ids: list[int], flags: list[bool]) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of a row's supervised tokens in transformers' own pass, and their number."""
    tokens = torch.tensor(ids, device=model.device)
    supervised = torch.tensor(flags, device=model.device)[1:]
    logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits[supervised].float(), tokens[1:][supervised], reduction="sum")
    return loss, int(supervised.sum())


def held_out_loss(model: Any, task: Task) -> float:
    """Return the mean loss per supervised token of the held-out rows; the model stays in training mode.

    In evaluation mode bitsandbytes would repack its weights; there is no dropout that could make a difference.
    """
    with torch.no_grad():
        scored = [row_loss(model, *row) for row in rows_of(task.cache, "test")]
    return sum(float(loss) for loss, _ in scored) / sum(count for _, count in scored)
