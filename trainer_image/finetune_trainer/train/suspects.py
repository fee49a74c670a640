"""Which rows stand behind a step whose numbers went bad: those of the micro-batch with the worst loss.

The losses of single rows are not known, those of micro-batches are: each process keeps its own until all have agreed
that the step was sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from finetune_trainer import log
from finetune_trainer.data.places import Places
from finetune_trainer.train.run import Run
from finetune_trainer.train.step import Step

_LISTED = 5
_CHARACTERS = 600
"""Most of the rows that a message names, so that the rest of it still has room."""


@dataclass(frozen=True)
class Suspect:
    """A micro-batch of the step."""

    rank: int
    loss: float
    """Mean over what it predicts."""
    rows: NDArray[np.int64]
    """Numbers of its rows in the token cache."""


def suspects(run: Run, step: Step) -> list[Suspect]:
    """Return the micro-batches of a step over all processes, the worst first. Every process must call it."""
    mine = torch.stack(step.losses).float()
    gathered = [torch.empty_like(mine) for _ in range(run.process.world_size)]
    dist.all_gather(gathered, mine)
    found = [one for rank, sums in enumerate(gathered) for one in _of_rank(run, step, rank, sums.tolist())]
    return sorted(found, key=lambda one: -one.loss if isfinite(one.loss) else float("-inf"))


def _of_rank(run: Run, step: Step, rank: int, loss_sums: Sequence[float]) -> list[Suspect]:
    batches = run.data.batches
    dealt = batches.step_rows(
        run.data.schedule,
        step.index,
        rank=rank,
        world_size=run.process.world_size,
        micro_batch_size=run.plan.micro_batch_size,
    )
    return [
        Suspect(rank, loss_sum / (batches.weight_of(rows) or 1), rows)
        for rows, loss_sum in zip(dealt, loss_sums, strict=True)
        if len(rows)
    ]


def named(found: Sequence[Suspect], places: Places) -> str:
    """Return which rows are suspected, in a sentence of bounded length."""
    if len(found) > 1 and not any(isfinite(one.loss) for one in found):
        return "the loss of every micro-batch of the step is none, so the weights are the cause and not single rows"
    worst = found[0]
    rows = places.of(worst.rows[:_LISTED])
    while len(rows) > 1 and sum(map(len, rows)) > _CHARACTERS:
        rows.pop()
    more = f" and {len(worst.rows) - len(rows)} more" if len(worst.rows) > len(rows) else ""
    return (
        f"the worst loss of a micro-batch, {worst.loss:.4g} on rank {worst.rank}, is that of {', '.join(rows)}{more};"
        " the log lists the rows of all (event suspect-rows)"
    )


def log_rows(found: Sequence[Suspect], places: Places, *, step: int) -> None:
    """Log the rows of each micro-batch, the worst first."""
    for one in found:
        log.error("suspect-rows", step=step, ofRank=one.rank, loss=one.loss, rows=places.of(one.rows))
