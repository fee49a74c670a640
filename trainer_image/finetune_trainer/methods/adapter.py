"""What all adapters of peft have in common: they stand beside frozen weights, and peft knows their file."""

import json
from collections.abc import Mapping, Sequence
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
from finetune_trainer.methods.embeddings import check_mergeable
from finetune_trainer.methods.misfit import Misfit
from finetune_trainer.methods.names import paths_of
from finetune_trainer.methods.result import Result

COPIES = "copies"
"""Metadata of an adapter's file: what peft reads under a second key; it is stored once, and exported twice."""
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
    merges = False
    """Whether the result is merged into the base model, too."""
    weights_name = SAFETENSORS_WEIGHTS_NAME
    """File of the trained tensors."""

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings for a model. Raises ValueError when there are none that fit it."""
        raise NotImplementedError

    def named(self) -> Mapping[str, Sequence[str]]:
        """Return the modules that the spec names, by its field."""
        return {}

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return None: the base model keeps its numbers."""
        return None

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and add adapters in its own number format. Raises StageFailure when they do not fit it."""
        try:
            for field, names in self.named().items():
                _check(model, field, names)
            adapted = get_peft_model(model, self.config(model), autocast_adapter_dtype=False)
            if self.merges:
                check_mergeable(model)
            return adapted
        except Misfit as error:
            raise _refused(f"{self.block} does not fit the model: {error}") from error
        except (ValueError, TypeError) as error:  # peft raises the second for a kind of module that it cannot wrap
            raise _refused(self.misfit(str(error))) from error

    def misfit(self, problem: str) -> str:
        """Return what a user is told when peft refuses the settings."""
        return (
            f"{self.block} does not fit the model: {' '.join(problem.split())[:300]}; module names of a model are in"
            f" its model.safetensors.index.json{self.advice}"
        )

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the adapter's tensors under the keys that peft reads."""
        return {name: keys[0] for name, keys in self._all_keys(model).items()}

    def copies(self, model: nn.Module) -> dict[str, str]:
        """Return the further keys that peft reads a tensor under, with the key in the file: that of a tied head."""
        return {key: keys[0] for keys in self._all_keys(model).values() for key in keys[1:]}

    def _all_keys(self, model: nn.Module) -> dict[str, list[str]]:
        """Return all keys that peft has for each tensor."""
        # peft alone knows its renaming: it is given each tensor's number in the place of the tensor.
        names = [name for name, _ in model.named_parameters()]
        numbers = {parameter: number for number, parameter in enumerate(model.parameters())}
        given = {
            name: torch.tensor(numbers[parameter], device="cpu")  # the model may be on the meta device
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        keys: dict[str, list[str]] = {}
        renamed = get_peft_model_state_dict(model, state_dict=given, save_embedding_layers=False)
        for key, number in renamed.items():
            keys.setdefault(names[int(number)], []).append(key)
        return keys

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write the adapter as peft does: safetensors and adapter_config.json."""
        assert isinstance(model, PeftModel)  # noqa: S101 - adapt returned it
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), directory / self.weights_name, metadata=self._metadata(model))
        config = model.peft_config[ADAPTER]
        config.inference_mode = True
        config.save_pretrained(directory)
        config.inference_mode = False

    def _metadata(self, model: nn.Module) -> dict[str, str]:
        copies = self.copies(model)
        return {"format": "pt", **({COPIES: json.dumps(copies)} if copies else {})}


def _check(model: nn.Module, field: str, names: Sequence[str]) -> None:
    """Raise ValueError when a name is no module's: peft would pass over it, as long as another one is found."""
    try:
        for name in names:
            paths_of(model, name)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _refused(problem: str) -> StageFailure:
    return StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, problem)
