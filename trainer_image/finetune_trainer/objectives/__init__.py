"""Objectives: what the model is trained for, one module each.

The loop, the engine and the evaluation know an objective by this protocol alone: it gives them a module
(`LossModule`) that turns a micro-batch into a sum of losses and into counts, says how much each row weighs in the
mean of a step, and makes scores of the sums over all batches and processes.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from numpy.typing import NDArray
from torch import nn

from finetune_api.spec import FineTuneJobSpec, Training
from finetune_api.status import Scores
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.objectives.module import Inputs, LossModule
from finetune_trainer.objectives.pretrain import Pretraining
from finetune_trainer.objectives.sft import Supervised

__all__ = ["Inputs", "LossModule", "Objective", "objective_of"]

Predicts = Literal["answers", "nothing"]


class Objective(Protocol):
    """What a model is trained for."""

    predicts: Predicts
    """What the test rows ask of the tuned model, once it is exported."""

    def loss_of(self, model: nn.Module, training: Training) -> LossModule:
        """Return the model with its loss."""

    def row_weights(self, cache: TokenCache) -> NDArray[Any]:
        """Return what each row adds to the sum that the losses of a step are divided by, [rows]."""

    def scores(self, loss_sum: float, counts: Sequence[float]) -> Scores | None:
        """Return the scores of all rows of a split, given the sums of what the module returned; None without any."""


def objective_of(spec: FineTuneJobSpec) -> Objective:
    """Return the objective that a spec names."""
    return Pretraining() if spec.objective == "pretrain" else Supervised()
