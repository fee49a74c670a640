"""Scores of the model on a split: exact sums over all rows and processes, no logits kept.

A large split takes longer than a pod has to stop, so that the processes vote on it with every batch, as they do
with every step.
"""

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
from finetune_trainer.errors import StageFailure, StopRequested
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
