"""What a model computes, told from its head."""

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

HEAD = "score"
"""Name of the head that tells classes apart, in every decoder of transformers."""


def head_of(model: PreTrainedModel) -> nn.Module | None:
    """Return the head that tells classes apart; None: the model is no classifier."""
    head: nn.Module | None = getattr(model, HEAD, None)
    return head


def labels_of(model: PreTrainedModel) -> list[str]:
    """Return the labels that a classifier tells apart, by class id; none: the model is no classifier."""
    return [] if head_of(model) is None else [label for _, label in sorted(model.config.id2label.items())]


def task_type(model: PreTrainedModel) -> Literal["CAUSAL_LM", "SEQ_CLS"]:
    """Return peft's name for what a model computes; beside adapters for SEQ_CLS, peft trains the head in full."""
    return "CAUSAL_LM" if head_of(model) is None else "SEQ_CLS"
