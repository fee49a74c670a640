"""Objectives: what the model is trained for, one module each.

The loop, the engine and the evaluation know an objective by this protocol alone: it gives them a module
(`LossModule`) that turns a micro-batch into a sum of losses and into counts, says how much each row weighs in the
mean of a step, and makes scores of the sums over all batches and processes.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import nn

from finetune_api.run import Classes, Confusion
from finetune_api.spec import FineTuneJobSpec, Training
from finetune_api.status import Scores
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.module import Inputs, LossModule
from finetune_trainer.objectives.sft import Supervised

__all__ = ["Inputs", "LossModule", "Objective", "objective_of"]


class Objective(Protocol):
    """What a model is trained for."""

    scores_base: bool
    """Whether scores of the base model, before it is trained, mean anything."""

    def loss_of(self, model: nn.Module, training: Training) -> LossModule:
        """Return the model with its loss."""

    def row_weights(self, cache: TokenCache) -> NDArray[Any]:
        """Return what each row adds to the sum that the losses of a step are divided by, [rows]."""

    def scores(self, loss_sum: float, counts: Sequence[float]) -> Scores | None:
        """Return the scores of all rows of a split, given the sums of what the module returned; None without any."""

    def confusion(self, counts: Sequence[float]) -> Confusion | None:
        """Return which label was taken for which; None where there are no labels."""


def objective_of(spec: FineTuneJobSpec, classes: Classes | None) -> Objective:
    """Return the objective that a spec names; `classes` are those that were found when its data was prepared."""
    if spec.objective == "classification":
        assert classes is not None  # noqa: S101 - prepared for this objective
        return Classification(classes, spec.training)
    return Supervised()
