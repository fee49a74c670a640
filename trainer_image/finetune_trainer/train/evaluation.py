"""Scores of the model on a split: exact sums over all tokens and processes, no logits kept."""

from math import exp, isfinite

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.status import Scores
from finetune_trainer.data.batches import row_batches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.errors import StageFailure
from finetune_trainer.model.attention import Backend
from finetune_trainer.train.engine import Engine
from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.processes import Process, all_sum

_LARGEST_EXPONENT = 700.0


def evaluate(
    engine: Engine, cache: TokenCache, process: Process, *, backend: Backend, max_tokens: int
) -> Scores | None:
    """Score all rows, read in batches of at most `max_tokens` tokens; None without supervised tokens."""
    # float64: millions of tokens would lose digits in fp32.
    sums = torch.zeros(3, dtype=torch.float64, device=process.device)
    engine.train(False)
    with torch.no_grad():
        for batch in row_batches(cache, rank=process.rank, world_size=process.world_size, max_tokens=max_tokens):
            inputs = inputs_of(batch, process.device, backend)
            loss, correct = engine(inputs, count_correct=True)
            sums += torch.stack([loss.double(), correct.double(), sums.new_tensor(float(len(batch.labels)))])
    engine.train(True)
    loss_sum, correct_sum, tokens = all_sum(sums)
    return scores(loss_sum, correct_sum, int(tokens)) if tokens else None


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
