"""Method `lora`: low-rank adapters beside frozen weights (https://arxiv.org/abs/2106.09685), made by peft."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Lora
from finetune_trainer.errors import StageFailure

_ADAPTER = "default"


class LowRank:
    """Trains adapters."""

    saves_frozen = False

    def __init__(self, settings: Lora | None) -> None:
        self._settings = settings or Lora()

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and add adapters in its own number format."""
        try:
            return get_peft_model(model, self._config(), autocast_adapter_dtype=False)
        except ValueError as error:
            raise StageFailure(
                ExitCode.INVALID,
                Reason.INVALID_SPEC,
                f"spec.method.lora does not fit the model: {error}; module names of a model are in its"
                ' model.safetensors.index.json, and targetModules: ["all-linear"] fits every model',
            ) from error

    def _config(self) -> LoraConfig:
        settings = self._settings
        targets = settings.target_modules
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            use_rslora=settings.use_rslora,
            modules_to_save=settings.modules_to_save or None,
        )

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
        save_file(dict(weights), directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config = model.peft_config[_ADAPTER]
        config.inference_mode = True
        config.save_pretrained(directory)
        config.inference_mode = False
