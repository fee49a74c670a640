"""Classification: a linear head on the hidden state of each row's last token, and cross-entropy over the classes.

That is where transformers' sequence classifiers of decoders look too, so that what is trained is what they load. In a
packed run of rows the last tokens are known from the boundaries; nothing is padded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from finetune_api.run import Classes, Confusion
from finetune_api.spec import Training
from finetune_api.status import Scores
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.model.task import head_of
from finetune_trainer.objectives.confusion import rates
from finetune_trainer.objectives.module import LossModule

TRIED_CLASS = 1
"""Class id that rows without a label are tried with."""


class ClassificationLoss(LossModule):
    """A sequence classifier with its loss. It counts the rows' weight, then the rows by true and predicted class."""

    def __init__(self, model: nn.Module, weights: Sequence[float], training: Training) -> None:
        super().__init__(model, label_smoothing=training.label_smoothing, noise_alpha=training.neftune_noise_alpha)
        # No buffer: the engine would round it to the number format of the computation.
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def predict(
        self, hidden: torch.Tensor, labels: torch.Tensor, *, count: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sum of the cross-entropies, and [weight, *confusion matrix] if asked to count."""
        if self._weights.device != hidden.device:
            self._weights = self._weights.to(hidden.device)
        logits = self._head(hidden).float()
        loss = self._cross_entropy(logits, labels) if len(labels) else logits.sum()
        if not count:
            return loss, loss.new_empty(0, dtype=torch.float64)
        classes = len(self._weights)
        cells = torch.bincount(labels * classes + logits.argmax(-1), minlength=classes**2)
        weight = self._weights[labels].double().sum()
        return loss, torch.cat([weight.reshape(1), cells.double()])

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels, weight=self._weights, reduction="sum", label_smoothing=self.smoothing)

    @property
    def _head(self) -> nn.Module:
        head = head_of(self.transformer)
        assert head is not None  # noqa: S101 - the model is a sequence classifier
        return head

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classes, [P, classes]."""
        logits: torch.Tensor = self._head(hidden)
        return logits

    def targets_of(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last token that transformers does not take for padding, and `TRIED_CLASS`."""
        kept = (row != self.transformer.config.get_text_config().pad_token_id).nonzero()[-1]
        return kept, torch.full_like(kept, TRIED_CLASS)

    def own_loss(self, row: torch.Tensor) -> torch.Tensor:
        """Return the weighted cross-entropy of a row by the model's own forward pass."""
        logits = self.transformer(input_ids=row[None], use_cache=False).logits
        return self._cross_entropy(logits.float(), self.targets_of(row)[1])


class Classification:
    """Objective `classification`."""

    scores_base = False
    """The base model's head is made of random numbers."""

    def __init__(self, classes: Classes, training: Training) -> None:
        self._labels = classes.labels
        self._weights = [1.0] * len(classes.labels)
        if training.class_weights == "balanced":
            total = sum(classes.rows)
            self._weights = [total / (len(classes.rows) * rows) for rows in classes.rows]

    def loss_of(self, model: nn.Module, training: Training) -> LossModule:
        """Return the model with its loss."""
        return ClassificationLoss(model, self._weights, training)

    def row_weights(self, cache: TokenCache) -> NDArray[Any]:
        """Return the weight of each row's class: the loss of a step is a mean over rows, weighted so."""
        assert cache.class_labels is not None  # noqa: S101 - rows of this objective have a label
        return np.asarray(self._weights)[cache.class_labels]

    def scores(self, loss_sum: float, counts: Sequence[float]) -> Scores | None:
        """Return the scores of labels; None without rows."""
        matrix = self._matrix(counts)
        if not matrix.any():
            return None
        return Scores(loss=loss_sum / counts[0], rows=int(matrix.sum()), **rates(matrix)._asdict())

    def confusion(self, counts: Sequence[float]) -> Confusion | None:
        """Return which label was taken for which."""
        return Confusion(labels=self._labels, rows=self._matrix(counts).tolist())

    def _matrix(self, counts: Sequence[float]) -> NDArray[np.int64]:
        size = len(self._labels)
        return np.asarray(counts[1:], np.int64).reshape(size, size)
