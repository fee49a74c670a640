"""Policy: how LoRA trains embeddings and head, which may be one matrix.

Modules that the spec saves are trained whole; a matrix that is both, once (peft: `ensure_weight_tying`). Of new
tokens only their rows are trained (peft: `trainable_token_indices`), where the matrix is not trained whole.
"""

from collections.abc import Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn
from transformers import PreTrainedModel

from finetune_api.spec import Lora
from finetune_trainer.methods.misfit import Misfit
from finetune_trainer.methods.names import is_called


def settings_of_embeddings(model: PreTrainedModel, settings: Lora, new_tokens: Sequence[int]) -> dict[str, Any]:
    """Return peft's settings. Raises Misfit for what peft cannot train, or would train in one of two places alone."""
    paths, tied = _paths(model), is_tied(model)
    whole = _called(paths, settings.modules_to_save)
    bearing = [path for path in _called(paths, settings.target_modules) if path not in whole]
    if tied and whole:
        unknown = [path for path in whole if path.rpartition(".")[2] not in EMBEDDING_LAYER_NAMES]
        if unknown:
            raise Misfit(f"modulesToSave: {unknown[0]} is embedding and head in one, which peft cannot train so")
        if bearing:
            raise Misfit(
                f"targetModules: {bearing[0]} is the matrix that modulesToSave trains whole; remove it from there"
            )
        return {"ensure_weight_tying": True}
    if not new_tokens:
        return {}
    if bearing:
        raise Misfit(
            f"spec.model.newTokens trains rows of {bearing[0]}, which can bear no adapter then; move it from"
            " targetModules to modulesToSave, which trains it whole, or leave it out"
        )
    rows = [path for path in (paths[:1] if tied else paths) if path not in whole]
    return {"trainable_token_indices": {path: [*new_tokens] for path in rows}} if rows else {}


def check_mergeable(model: PreTrainedModel) -> None:
    """Raise Misfit when an adapter acts on one place of a matrix that is embeddings and head in one.

    It is trained in that place alone, but merged it would change the matrix, and so the other place as well.
    """
    modules = {path: model.get_submodule(path) for path in _paths(model)} if is_tied(model) else {}
    if path := next((path for path, module in modules.items() if isinstance(module, BaseTunerLayer)), None):
        raise Misfit(
            f"{path} bears an adapter, but embeddings and head of the model are one matrix, so that merging would"
            f" change both places; name {path} in lora.modulesToSave in place of targetModules, which trains the"
            " matrix whole, or set spec.output.merge: false"
        )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head is the matrix of the embeddings."""
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)) and len(_paths(model)) > 1


def tied_to(model: PreTrainedModel, paths: Sequence[str]) -> list[str]:
    """Return embeddings and head if they are one matrix and at least one of them is among the paths."""
    both = _paths(model) if is_tied(model) else []
    return both if not set(both).isdisjoint(paths) else []


def matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the matrices of embeddings and head; one if they are tied."""
    modules: list[Any] = [model.get_submodule(path) for path in _paths(model)]
    return list({module.weight: None for module in modules})


def _called(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    return [path for path in paths if any(is_called(path, name) for name in names)]


def _paths(model: PreTrainedModel) -> list[str]:
    """Return where embeddings and head stand; a classifier has no head over the vocabulary."""
    names = {module: path for path, module in model.named_modules()}
    found = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [names[module] for module in found if module is not None]
