"""Method `freeze`: some layers are trained, the rest stays as it is; the result is a whole model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Freeze
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.embeddings import matrices
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.names import paths_like
from finetune_trainer.methods.result import Result
from finetune_trainer.model.task import head_of

TRAINED_TENSORS = "trained.safetensors"
"""The trained tensors alone, under their names in the model: a checkpoint of two layers is no copy of the model."""


class Partial:
    """Trains the last layers and the modules that the spec names."""

    result: Result = "model"
    saves_frozen = False

    def __init__(self, settings: Freeze, given: Given) -> None:
        self._settings = settings
        self._given = given

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return None: the result is a whole model in its own numbers."""
        return None

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Leave only the wanted parameters to be trained, and the head that tells classes apart, which is new.

        Raises StageFailure when a name is no module's.
        """
        model.requires_grad_(False)
        for module in self._trained_modules(model):
            module.requires_grad_(True)
        head = head_of(model)
        if head is not None:
            head.requires_grad_(True)
        if self._given.new_tokens and not all(matrix.requires_grad for matrix in matrices(model)):
            raise _misfit(
                "spec.model.newTokens have rows in embeddings and head, which must be trained then; add both to"
                " trainableModules (embed_tokens and lm_head in most models)"
            )
        return model

    def _trained_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        layers = decoder_layers(model)
        if self._settings.trainable_layers > len(layers):
            raise _misfit(f"trainableLayers is {self._settings.trainable_layers}, but the model has {len(layers)}")
        named = self._named(model)
        last = layers[len(layers) - self._settings.trainable_layers :]
        if not last and not named:
            raise _misfit("nothing is trained; set trainableLayers or trainableModules")
        return [*last, *named]

    def _named(self, model: PreTrainedModel) -> list[nn.Module]:
        try:
            paths = [path for name in self._settings.trainable_modules for path in paths_like(model, name)]
        except ValueError as error:
            raise _misfit(f"trainableModules: {error}") from error
        return [model.get_submodule(path) for path in paths]

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the trained parameters under their own names."""
        return {name: name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write the trained tensors; the export puts them into the base model."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), directory / TRAINED_TENSORS, metadata={"format": "pt"})


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a decoder: the only list of modules that has as many as the configuration says.

    Some models call another part their decoder than the one with the layers. Raises StageFailure when none has them.
    """
    count = model.config.get_text_config().num_hidden_layers
    for part in (model.get_decoder(), model):
        lists = (module for module in part.modules() if isinstance(module, nn.ModuleList))
        if (found := next((layers for layers in lists if len(layers) == count), None)) is not None:
            return found
    raise StageFailure(
        ExitCode.INVALID,
        Reason.INVALID_MODEL,
        f"a model of type {model.config.model_type} has no list of {count} layers, as many as its config.json says,"
        " so this trainer cannot tell its layers apart; choose a model of another type",
    )


def _misfit(problem: str) -> StageFailure:
    message = f"spec.method.freeze does not fit the model: {problem}"
    return StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, message)
