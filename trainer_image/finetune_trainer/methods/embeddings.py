"""Policy: how LoRA trains embeddings and head, which may be one matrix.

Modules that the spec saves are trained whole; a matrix that is both, once (peft: `ensure_weight_tying`). Of new
tokens only their rows are trained (peft: `trainable_token_indices`), where the matrix is not trained whole.
"""

from collections.abc import Sequence
from typing import Any

from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn
from transformers import PreTrainedModel


def settings_of_embeddings(model: PreTrainedModel, saved: Sequence[str], new_tokens: Sequence[int]) -> dict[str, Any]:
    """Return peft's settings. Raises ValueError for a tied matrix that peft would not keep equal in both places."""
    paths = _paths(model)
    whole = [path for path in paths if any(path == name or path.endswith(f".{name}") for name in saved)]
    tied = is_tied(model)
    if tied and whole:
        unknown = [path for path in whole if path.rpartition(".")[2] not in EMBEDDING_LAYER_NAMES]
        if unknown:
            raise ValueError(f"modulesToSave: {unknown[0]} is embedding and head in one, which peft cannot train so")
        return {"ensure_weight_tying": True}
    rows = [path for path in (paths[:1] if tied else paths) if path not in whole]
    return {"trainable_token_indices": {path: [*new_tokens] for path in rows}} if new_tokens and rows else {}


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head is the matrix of the embeddings."""
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)) and len(_paths(model)) > 1


def matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the matrices of embeddings and head; one if they are tied."""
    modules: list[Any] = [model.get_submodule(path) for path in _paths(model)]
    return list({module.weight: None for module in modules})


def _paths(model: PreTrainedModel) -> list[str]:
    """Return where embeddings and head stand; a classifier has no head over the vocabulary."""
    names = {module: path for path, module in model.named_modules()}
    found = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [names[module] for module in found if module is not None]
