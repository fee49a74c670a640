"""The model without its weights: exact counts of parameters, and the sizes that memory depends on.

The model is built on PyTorch's meta device from config.json, with the adapters of the method, so that every
architecture that transformers knows is counted by its own code and not by a formula.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import experts, method_of
from finetune_trainer.methods.freeze import decoder_layers
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.qlora import quantized_layers
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.packable import require_packable
from finetune_trainer.prepare.model_files import invalid_model

_LEAST_ROW = 2
"""Tokens: one to predict the other."""
LANGUAGE_MODEL = ModelKind()
_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")
_UNBUILDABLE = (ValueError, KeyError, AttributeError, TypeError, ImportError, AssertionError, StrictDataclassError)
"""What models raise at settings that they cannot be built with, or without a library that is not in the image."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, adapters included."""

    total_parameters: int
    trainable_parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    vocabulary: int
    max_positions: int | None
    """Longest row the model can place, after virtual tokens; None: it sets no bound."""
    quantized_parameters: int = 0
    """Parameters of the base that are held in 4 or 8 bits."""
    outputs: int | None = None
    """Width of the head; None: the vocabulary."""
    layers_kept: int | None = None
    """Last layers through which gradients go back, so that they keep their activations; None: all."""
    trained_head: int = 0
    """Parameters of the head over the vocabulary where it is trained whole."""
    experts_left_out: int = 0
    """Parameters of experts that stay as they are although the job adapts all linear layers."""


def read_config(directory: Path, uri: str) -> Any:
    """Return the model's configuration. Raises StageFailure when transformers does not know the model."""
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, StrictDataclassError) as error:
        raise invalid_model(
            f"{uri}: config.json describes no model this trainer knows ({_first_line(error)});"
            " models that bring code of their own are not run"
        ) from error


def measure(
    config: Any,
    method: Method,
    uri: str,
    kind: ModelKind = LANGUAGE_MODEL,
    given: Given = Given(),  # noqa: B008
) -> ModelShape:
    """Return the sizes of the model under a method. Raises StageFailure when it cannot be trained."""
    model = _built(config, uri, kind)
    require_packable(model)
    text = _text_config(config, uri)
    quantized = _linear_weights(model) if method.type == "qlora" else 0
    with torch.device("meta"):
        model = method_of(method, given).adapt(model)
    return ModelShape(
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        quantized_parameters=quantized,
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=_intermediate_size(text),
        vocabulary=text.vocab_size,
        outputs=len(kind.labels) or None,
        # Virtual tokens are parameters that stand before every layer.
        layers_kept=None if method.virtual_tokens else _layers_kept(model),
        trained_head=_trained_head(model),
        max_positions=_room(getattr(text, "max_position_embeddings", None), method),
        experts_left_out=experts.left_out(model) if _adapts_all(method) else 0,
    )


def _built(config: Any, uri: str, kind: ModelKind) -> Any:
    """Return the model without weights. Raises StageFailure when it cannot be built."""
    try:
        with torch.device("meta"):
            return kind.auto_class.from_config(kind.configure(config))
    except _UNBUILDABLE as error:
        raise invalid_model(f"{uri}: no {kind} can be built from config.json: {_first_line(error)}") from error


def _text_config(config: Any, uri: str) -> Any:
    """Return the configuration of the part that reads text. Raises StageFailure when it lacks a size."""
    text = config.get_text_config()
    for size in _SIZES:
        if not isinstance(getattr(text, size, None), int):
            raise invalid_model(
                f"{uri}: config.json says no {size}, by which this trainer plans; choose another model"
            )
    return text


def _intermediate_size(text: Any) -> int:
    """Return the width of feed-forward layers, of the widest where each has its own."""
    size = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return int(size) if isinstance(size, int) else max(size)


def _adapts_all(method: Method) -> bool:
    lora = method.spelled_out().lora
    return lora is not None and lora.adapts_every_linear and method.initial_adapter is None


def _room(positions: int | None, method: Method) -> int | None:
    """Return the positions that are left for a row. Raises StageFailure when there are too few for any."""
    virtual = method.virtual_tokens
    if positions is None or not virtual:
        return positions
    if positions - virtual < _LEAST_ROW:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"spec.method.{method.type}.numVirtualTokens is {virtual}, but the model has {positions} positions in"
            " all, and the rows need some; lower it",
        )
    return positions - virtual


def _layers_kept(model: Any) -> int:
    """Return how many layers there are from the first one that is trained, or all if something before them is."""
    layers = decoder_layers(model)
    place = {id(parameter): at for at, layer in enumerate(layers) for parameter in layer.parameters()}
    place |= {id(parameter): 0 for parameter in model.get_input_embeddings().parameters()}
    trained = (id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return len(layers) - min((place.get(one, len(layers)) for one in trained), default=len(layers))


def _trained_head(model: Any) -> int:
    """Return the trained parameters of the head over the vocabulary; a model without one is a classifier."""
    head = model.get_output_embeddings()
    parameters = [] if head is None else head.parameters()
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def _linear_weights(model: Any) -> int:
    """Return the parameters that bitsandbytes quantises: the weights of linear layers, the head left out."""
    linear: list[Any] = list(quantized_layers(model))
    return sum(module.weight.numel() for module in linear)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error, and the next one where that says what the first one announces."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])[:300]
