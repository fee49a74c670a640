"""Proves, before training, that the packed path computes what the model computes.

Two short documents go through the model in one packed row, with our attention and our loss head; then each goes
through transformers' own forward pass, or peft's, alone. A model with anything that packing would break - state
carried from token to token, attention our backends do not compute, logits scaled after the head - differs, and is
refused.
"""

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.model import attention
from finetune_trainer.model.compile import uncompiled
from finetune_trainer.objectives.module import LossModule
from finetune_trainer.objectives.whole_rows import whole_rows

_LENGTHS = [7, 5]
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2}
"""Largest difference of two mean losses, in nats: rounding is far below it, a mistake far above."""


def check(loss: LossModule, device: torch.device, backend: attention.Backend, *, virtual_tokens: int = 0) -> float:
    """Return the difference found. Raises StageFailure when it is no rounding. Every process must call it."""
    was_training = loss.training
    loss.eval()
    rows = _rows(loss, device)
    inputs = whole_rows(loss, rows, backend, virtual_tokens=virtual_tokens)
    with torch.no_grad():
        packed, _ = loss(inputs)
        alone = torch.stack([_alone(loss, row) for row in rows]).sum()
    loss.train(was_training)
    gap: float = abs(packed.item() - alone.item()) / len(inputs.labels)
    if not gap <= _TOLERANCE[next(loss.parameters()).dtype]:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_MODEL,
            f"{type(loss.transformer).__name__} cannot be trained on packed rows: its loss differs by {gap:.3g} from"
            " that of its rows alone; use a model with plain causal attention (Llama, Qwen, Mistral and their kind)",
        )
    return gap


def _rows(loss: LossModule, device: torch.device) -> list[torch.Tensor]:
    size = loss.transformer.config.get_text_config().vocab_size
    tokens = torch.randint(size, (sum(_LENGTHS),), generator=torch.Generator().manual_seed(0))
    return [row.to(device) for row in torch.split(tokens, _LENGTHS)]


def _alone(loss: LossModule, row: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of a row in the model's own forward pass."""
    model = loss.transformer
    model.set_attn_implementation("eager")
    try:
        with uncompiled(model):
            return loss.own_loss(row)
    finally:
        model.set_attn_implementation(attention.IMPLEMENTATION)
