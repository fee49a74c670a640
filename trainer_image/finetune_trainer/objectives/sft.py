"""Supervised fine-tuning: cross-entropy of the supervised tokens, and of nothing else.

The head is applied to the hidden states at supervised positions alone, and in tiles of many tokens, so that the
logits of a whole batch never exist: they would be the largest tensor of the step.
"""

from collections.abc import Sequence
from math import exp
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from finetune_api.run import Confusion
from finetune_api.spec import Training
from finetune_api.status import Scores
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.objectives.head import (
    Scored,
    Scoring,
    is_one_matrix,
    is_sharded,
    score,
    score_by_module,
    score_in_one_call,
)
from finetune_trainer.objectives.module import LossModule

_LARGEST_EXPONENT = 700.0


class SupervisedLoss(LossModule):
    """A causal language model with its loss. It counts tokens predicted right, and tokens."""

    def predict(
        self, hidden: torch.Tensor, labels: torch.Tensor, *, count: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropies, and [tokens predicted right, tokens] if asked to count."""
        loss, correct = self._score(hidden, labels, Scoring(count, self.smoothing))
        if not count:
            return loss, loss.new_empty(0, dtype=torch.float64)
        return loss, torch.stack([correct, correct.new_tensor(len(labels))]).double()

    def _score(self, hidden: torch.Tensor, labels: torch.Tensor, scoring: Scoring) -> Scored:
        head = self.transformer.get_output_embeddings()
        if not len(hidden):
            return Scored(head(hidden).float().sum(), labels.sum())
        if is_one_matrix(head):
            return score(head, hidden, labels, scoring)
        scored = score_in_one_call if is_sharded(head) else score_by_module
        vocabulary = self.transformer.config.get_text_config().vocab_size
        return scored(head, hidden, labels, scoring, vocabulary=vocabulary)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the vocabulary, [P, vocabulary]."""
        logits: torch.Tensor = self.transformer.get_output_embeddings()(hidden)
        return logits

    def targets_of(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return every token but the first, each to be predicted at the position before it."""
        return torch.arange(len(row) - 1, device=row.device), row[1:]

    def own_loss(self, row: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy of a document by the model's own forward pass."""
        # Virtual tokens of peft's stand before the row and have logits too.
        logits = self.model(input_ids=row[None], use_cache=False).logits[0, -len(row) : -1]
        return cross_entropy(logits.float(), row[1:], reduction="sum")


class Supervised:
    """Objectives `sft` and `pretrain`: they differ in the rows alone (`prepare/encode.py`)."""

    scores_base = True

    def loss_of(self, model: nn.Module, training: Training) -> LossModule:
        """Return the model with its loss."""
        return SupervisedLoss(
            model, label_smoothing=training.label_smoothing, noise_alpha=training.neftune_noise_alpha
        )

    def row_weights(self, cache: TokenCache) -> NDArray[Any]:
        """Return the supervised tokens of each row: the loss of a step is a mean over tokens."""
        return cache.supervised_counts

    def scores(self, loss_sum: float, counts: Sequence[float]) -> Scores | None:
        """Return the scores of summed cross-entropy and counts; None without supervised tokens."""
        correct, tokens = counts
        if not tokens:
            return None
        loss = loss_sum / tokens
        perplexity = exp(min(loss, _LARGEST_EXPONENT))
        return Scores(loss=loss, perplexity=perplexity, token_accuracy=correct / tokens, tokens=int(tokens))

    def confusion(self, counts: Sequence[float]) -> Confusion | None:
        """Return None: tokens are too many to tell which was taken for which."""
        return None
