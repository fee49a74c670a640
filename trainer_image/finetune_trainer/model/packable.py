"""Models that cannot be trained on packed rows, told by their kind before any weight is loaded."""

from typing import Any

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure


def require_packable(model: Any) -> None:
    """Refuse a model that computes attention itself, so that its rows would see one another (GPT-J, Falcon, BLOOM).

    Each of the two marks of transformers is missing from some models that are packed well: BioGPT, GOT-OCR 2.
    """
    if not (model.is_backend_compatible() or model._can_set_attn_implementation()):
        raise not_packable(model, "it computes attention itself, across rows")


def not_packable(model: Any, why: str) -> StageFailure:
    """Return the refusal of a model."""
    return StageFailure(
        ExitCode.INVALID,
        Reason.INVALID_MODEL,
        f"{type(model).__name__} cannot be trained on packed rows: {why}; use a model with plain causal"
        " attention (Llama, Qwen, Mistral and their kind)",
    )
