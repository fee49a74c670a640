"""Scores of the model on a split: exact sums over all tokens and processes, no logits kept.

A large split takes longer than a pod has to stop, so that the processes vote on it with every batch, as they do
with every step.
"""

from math import exp, isfinite

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.status import Scores
from finetune_trainer import log
from finetune_trainer.data.batches import row_batches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.errors import StageFailure, StopRequested
from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.processes import all_sum
from finetune_trainer.train.run import Run
from finetune_trainer.train.sync import StepSync, Votes

_LARGEST_EXPONENT = 700.0


def evaluate(run: Run, cache: TokenCache, doing: str) -> Scores | None:
    """Score all rows; None without supervised tokens. Every process must call it.

    Raises StopRequested, on all processes after the same batch, when one of them was asked to stop.
    """
    log.info("evaluating", rows=len(cache), doing=doing)
    run.engine.train(False)
    try:
        with torch.no_grad(), run.watchdog.during(doing), run.stop.deferred():
            loss_sum, correct_sum, tokens = all_sum(_sums(run, cache))
    finally:
        run.engine.train(True)
    return scores(loss_sum, correct_sum, int(tokens)) if tokens else None


def _sums(run: Run, cache: TokenCache) -> torch.Tensor:
    """Return this process's sums of cross-entropies, right predictions and supervised tokens."""
    process, sync = run.process, StepSync(run.process.device)
    batches = row_batches(
        cache,
        rank=process.rank,
        world_size=process.world_size,
        max_tokens=run.evaluation_tokens,
        virtual_tokens=run.spec.method.virtual_tokens,
    )
    # float64: millions of tokens would lose digits in fp32.
    sums = torch.zeros(3, dtype=torch.float64, device=process.device)
    for number, batch in enumerate(batches):
        loss, correct = run.engine(inputs_of(batch, process.device, run.backend), count_correct=True)
        sums += torch.stack([loss.double(), correct.double(), sums.new_tensor(float(len(batch.labels)))])
        run.watchdog.beat()
        sync.push(number, loss, 0.0, Votes(stop=run.stop.requested))
        if any(outcome.votes.stop for outcome in sync.ready(flush=False)):
            raise StopRequested
    return sums


def scores(loss_sum: float, correct: float, tokens: int) -> Scores:
    """Return the scores of summed cross-entropy and correctly predicted tokens."""
    loss = loss_sum / tokens
    if not isfinite(loss):
        raise StageFailure(
            ExitCode.DIVERGED,
            Reason.DIVERGED,
            f"the loss on evaluation rows is {loss}; lower spec.training.learningRate, or check the base model",
        )
    perplexity = exp(min(loss, _LARGEST_EXPONENT))
    return Scores(loss=loss, perplexity=perplexity, token_accuracy=correct / tokens, tokens=tokens)
