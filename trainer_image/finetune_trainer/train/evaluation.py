"""Scores of the model on a split: exact sums over all rows and processes, no logits kept.

A large split takes longer than a pod has to stop, so that the processes vote on it with every batch, as they do
with every step.
"""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Confusion
from finetune_api.status import Scores, Validation
from finetune_trainer import log
from finetune_trainer.data.batches import row_batches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.compared import compared_rows
from finetune_trainer.errors import StageFailure, StopRequested
from finetune_trainer.model.attention import Backend
from finetune_trainer.objectives import LossModule
from finetune_trainer.objectives.whole_rows import whole_rows
from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.processes import all_sum
from finetune_trainer.train.run import Run
from finetune_trainer.train.sync import StepSync, Votes


class Evaluation(NamedTuple):
    """What was found on a split."""

    scores: Scores
    confusion: Confusion | None

    @property
    def validation(self) -> Validation:
        """The scores that tell which checkpoint is best."""
        scores = self.scores
        return Validation(eval_loss=scores.loss, eval_accuracy=scores.accuracy, eval_f1=scores.f1_macro)


def evaluate(run: Run, cache: TokenCache, doing: str, *, virtual_tokens: int | None = None) -> Evaluation | None:
    """Score all rows; None without anything to predict. Every process must call it.

    Before each row stand so many virtual tokens: those of the method, or 0.

    Raises StopRequested, on all processes after the same batch, when one of them was asked to stop, and StageFailure
    when the loss is no number.
    """
    if not len(cache):
        return None
    virtual_tokens = run.spec.method.virtual_tokens if virtual_tokens is None else virtual_tokens
    log.info("evaluating", rows=len(cache), doing=doing)
    run.engine.train(False)
    try:
        with torch.no_grad(), run.watchdog.during(doing), run.stop.deferred():
            loss_sum, *counts = all_sum(_sums(run, cache, virtual_tokens))
    finally:
        run.engine.train(True)
    _require_number(loss_sum)
    scores = run.objective.scores(loss_sum, counts)
    return None if scores is None else Evaluation(scores, run.objective.confusion(counts))


def compared_losses(run: Run) -> list[float]:
    """Return the loss of all that can be predicted of the rows by which the export compares its result.

    Every process must call it. Raises StageFailure when one is no number.
    """
    rows = [row.to(run.process.device) for row in compared_rows(run.data.test, run.data.train)]
    virtual_tokens = run.spec.method.virtual_tokens
    run.engine.train(False)
    try:
        with run.watchdog.during("while it scores the rows that the result is compared by"), run.stop.deferred():
            return losses_of(run.engine.module, rows, run.backend, virtual_tokens=virtual_tokens)
    finally:
        run.engine.train(True)


def losses_of(
    module: LossModule, rows: Sequence[torch.Tensor], backend: Backend, *, virtual_tokens: int
) -> list[float]:
    """Return the loss of each target of rows, int64 [T] each. Raises StageFailure when one is no number."""
    if not rows:
        return []
    with torch.no_grad():
        losses = module.each_loss(whole_rows(module, rows, backend, virtual_tokens=virtual_tokens))
    _require_number(losses.sum().item())
    return [round(loss, 6) for loss in losses.tolist()]


def _sums(run: Run, cache: TokenCache, virtual_tokens: int) -> torch.Tensor:
    """Return this process's sums of the losses and of what else the objective counts."""
    process, sync = run.process, StepSync(run.process.device)
    batches = row_batches(
        cache,
        rank=process.rank,
        world_size=process.world_size,
        max_tokens=run.evaluation_tokens,
        virtual_tokens=virtual_tokens,
    )
    # float64: millions of tokens would lose digits in fp32.
    sums = torch.zeros((), dtype=torch.float64, device=process.device)
    for number, batch in enumerate(batches):
        loss, counts = run.engine(inputs_of(batch, process.device, run.backend), count=True)
        sums = sums + torch.cat([loss.double().reshape(1), counts])
        run.watchdog.beat()
        sync.push(number, loss, 0.0, Votes(stop=run.stop.requested))
        if any(outcome.votes.stop for outcome in sync.ready(flush=False)):
            raise StopRequested
    return sums


def _require_number(loss_sum: float) -> None:
    if not isfinite(loss_sum):
        raise StageFailure(
            ExitCode.DIVERGED,
            Reason.DIVERGED,
            f"the loss on evaluation rows is {loss_sum}; lower spec.training.learningRate, or check the base model",
        )
