"""Method `adapter`: small layers behind attention and feed-forward (https://arxiv.org/abs/1902.00751).

peft has none of this kind; what loads them is a file that goes with them (`load_adapter.py`).
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Bottleneck as Settings
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import load_adapter
from finetune_trainer.methods.freeze import decoder_layers
from finetune_trainer.methods.result import Result

LOADER = "load_adapter.py"
"""File beside the weights that loads them."""
_KINDS = {"attention": ("Attention",), "feed-forward": ("MLP", "Mlp", "FeedForward", "MoE", "Moe")}
"""What the class of a layer's part is called in transformers, where a layer has parts of its own for these."""
_PLACES = {"houlsby": ("attention", "feed-forward"), "pfeiffer": ("feed-forward",)}


class BottleneckAdapter:
    """Trains small layers."""

    result: Result = "adapter"
    saves_frozen = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return None: the base model keeps its numbers."""
        return None

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and put adapters in, in its own number format."""
        model.requires_grad_(False)
        for part in self._parts(model):
            bottleneck = load_adapter.Bottleneck(*self._size(model), self._settings.activation)
            load_adapter.put_behind(part, bottleneck.to(model.dtype))
        return model

    def _parts(self, model: PreTrainedModel) -> Iterator[nn.Module]:
        for layer in decoder_layers(model):
            for place in _PLACES[self._settings.placement]:
                found = [part for part in layer.children() if _is_for(place, part, layer)]
                if len(found) != 1:
                    raise _misfit(f"a {type(layer).__name__} has no part of its own for {place}")
                yield found[0]

    def _size(self, model: PreTrainedModel) -> tuple[int, int]:
        width = model.config.get_text_config().hidden_size
        return width, self._settings.width(width)

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        """Return the trained parameters under their own names."""
        return {name: name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def write(self, model: nn.Module, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Write the adapters, what they are, and the file that loads them."""
        assert isinstance(model, PreTrainedModel)  # noqa: S101 - adapt returned it
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), directory / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        config = {
            "adapter_type": "bottleneck",
            "placement": self._settings.placement,
            "bottleneck_size": self._size(model)[1],
            "activation": self._settings.activation,
        }
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
        shutil.copy(load_adapter.__file__, directory / LOADER)


def _is_for(place: str, part: nn.Module, layer: nn.Module) -> bool:
    """Whether a part of a layer is for attention or for feed-forward, by the name of its class."""
    model = re.sub("(Decoder)?(Layer|Block)$", "", type(layer).__name__)
    # The model's own name, which that of a part begins with, may be Qwen3Moe.
    name = type(part).__name__.removeprefix(model)
    return any(kind in name for kind in _KINDS[place])


def _misfit(problem: str) -> StageFailure:
    return StageFailure(
        ExitCode.INVALID,
        Reason.INVALID_SPEC,
        f"spec.method.adapter does not fit the model: {problem}; set spec.method.type: lora, which fits every model",
    )
