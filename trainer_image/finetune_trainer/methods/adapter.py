"""What all adapters of peft have in common: they stand beside frozen weights, and peft knows their file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.result import Result

ADAPTER = "default"
"""peft's name of the adapter that is trained."""


class Adapter:
    """Trains an adapter of peft; a subclass says which."""

    result: Result = "adapter"
    saves_frozen = False
    block = ""
    """Where in the spec its settings stand."""
    advice = ""
    """What else a user may do when they do not fit."""
    weights_name = SAFETENSORS_WEIGHTS_NAME
    """File of the trained tensors."""

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings for a model. Raises ValueError when there are none that fit it."""
        raise NotImplementedError

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return None: the base model keeps its numbers."""
        return None

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and add adapters in its own number format."""
        try:
            return get_peft_model(model, self.config(model), autocast_adapter_dtype=False)
        except ValueError as error:
            raise StageFailure(
                ExitCode.INVALID,
                Reason.INVALID_SPEC,
                f"{self.block} does not fit the model: {' '.join(str(error).split())[:300]}; module names of a model"
                f" are in its model.safetensors.index.json{self.advice}",
            ) from error

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the adapter's tensors under the keys that peft reads."""
        # peft alone knows its renaming: it is given each tensor's number in the place of the tensor.
        names = [name for name, _ in model.named_parameters()]
        numbers = {name: torch.tensor(number) for number, name in enumerate(names)}
        renamed = get_peft_model_state_dict(model, state_dict=numbers, save_embedding_layers=False)
        return {names[int(number)]: key for key, number in renamed.items()}

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write the adapter as peft does: safetensors and adapter_config.json."""
        assert isinstance(model, PeftModel)  # noqa: S101 - adapt returned it
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), directory / self.weights_name, metadata={"format": "pt"})
        config = model.peft_config[ADAPTER]
        config.inference_mode = True
        config.save_pretrained(directory)
        config.inference_mode = False
