"""Methods: which parameters are trained, and under which names they stand in the files that others read.

A commit's `weights/` folder holds what was trained in the form that transformers and peft load without DeepSpeed:
an adapter, or the whole model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from finetune_api.spec import Method as MethodSpec
from finetune_trainer.methods.full import Full
from finetune_trainer.methods.lora import LowRank


class Method(Protocol):
    """A method."""

    saves_frozen: bool
    """Whether parameters that are not trained belong into a checkpoint."""

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model with its trained parameters. Raises StageFailure when the spec does not fit it."""

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the key in the weights files of each tensor that belongs there, by its name in the model."""

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write whole tensors, by their file keys, and the configuration that belongs to them."""


def method_of(spec: MethodSpec) -> Method:
    """Return the method that a spec names."""
    return Full() if spec.type == "full" else LowRank(spec.lora)
