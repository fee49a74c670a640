"""Methods: which parameters are trained, and under which names they stand in the files that others read.

A commit's `weights/` folder holds what was trained in the form that transformers and peft read without DeepSpeed: an
adapter, or the trained tensors of the model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_api.spec import Method as MethodSpec
from finetune_trainer.methods.bottleneck import BottleneckAdapter
from finetune_trainer.methods.freeze import Partial
from finetune_trainer.methods.full import Full
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.ia3 import Factors
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.methods.qlora import QuantizedLowRank
from finetune_trainer.methods.result import Result
from finetune_trainer.methods.soft_prompts import PrefixTuning, PromptTuning


class Method(Protocol):
    """A method."""

    result: Result
    """What is exported: an adapter beside the base model, or a whole model."""
    saves_frozen: bool
    """Whether parameters that are not trained belong into a checkpoint."""

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return how the base model is quantised while it is loaded, computing in `dtype`; None: not at all."""

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model with its trained parameters. Raises StageFailure when the spec does not fit it."""

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the key in the weights files of each tensor that belongs there, by its name in the model."""

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write whole tensors, by their file keys, and the configuration that belongs to them."""


def method_of(spec: MethodSpec, given: Given = Given()) -> Method:  # noqa: B008 - immutable
    """Return the method that a spec names."""
    spec = spec.spelled_out()
    if spec.type == "full":
        return Full()
    if spec.freeze is not None:
        return Partial(spec.freeze, given)
    return _beside(spec, given)


def _beside(spec: MethodSpec, given: Given) -> Method:
    """Return the method of what is trained beside a frozen model."""
    if spec.ia3 is not None:
        return Factors(spec.ia3, given)
    if spec.prompt is not None:
        return PromptTuning(spec.prompt, given)
    if spec.prefix is not None:
        return PrefixTuning(spec.prefix)
    if spec.adapter is not None:
        return BottleneckAdapter(spec.adapter)
    if spec.quantization is not None:
        return QuantizedLowRank(spec.lora, spec.quantization, given)
    return LowRank(spec.lora, given)
