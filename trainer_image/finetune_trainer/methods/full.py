"""Method `full`: every weight is trained, and the result is a whole model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_trainer.methods.result import Result


class Full:
    """Trains every weight."""

    result: Result = "model"
    saves_frozen = True

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return None: what is trained keeps its numbers."""
        return None

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model as it is: all its parameters are trained."""
        return model

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return parameters (tied ones once) and stored buffers, under their own names."""
        names = {name for name, _ in model.named_parameters()}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = set(model.state_dict(keep_vars=True)) - parameters
        return {name: name for name in sorted(names | buffers)}

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write the model as transformers does, sharded safetensors and config.json, but with the tensors it has.

        transformers would take apart what it joined when it loaded the base (the experts of a mixture), and rename
        the rest. That is left to the export: what is written here is compared with the model and loaded back into it.
        """
        assert isinstance(model, PreTrainedModel)  # noqa: S101 - adapt returned it
        model.save_pretrained(directory, state_dict=dict(weights), max_shard_size="4GB", save_original_format=False)
