"""Proves, before training, that the packed path computes what the model computes.

Two short documents go through the model in one packed row, with our attention and our loss head; then each goes
through transformers' own forward pass, or peft's, alone. A model with anything that packing would break - state carried from
token to token, attention our backends do not compute, logits scaled after the head - differs, and is refused.
"""

import torch

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.model import attention
from finetune_trainer.objectives.sft import Inputs, SupervisedLoss

_LENGTHS = [7, 5]
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2}
"""Largest difference of two mean losses, in nats: rounding is far below it, a mistake far above."""


def check(
    loss: SupervisedLoss, device: torch.device, backend: attention.Backend, *, virtual_tokens: int = 0
) -> float:
    """Return the difference found. Raises StageFailure when it is no rounding. Every process must call it."""
    was_training = loss.training
    loss.eval()
    with torch.no_grad():
        bounds = torch.tensor([0, _LENGTHS[0], sum(_LENGTHS)], dtype=torch.int32)
        documents = attention.documents(bounds, device, backend, virtual_tokens=virtual_tokens)
        packed, _ = loss(_packed(loss, device, documents))
        alone = torch.stack([_alone(loss, row) for row in _rows(loss, device)]).sum()
    loss.train(was_training)
    targets = sum(_LENGTHS) - len(_LENGTHS)
    gap: float = abs(packed.item() - alone.item()) / targets
    if not gap <= _TOLERANCE[next(loss.parameters()).dtype]:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_MODEL,
            f"{type(loss.causal_lm).__name__} cannot be trained on packed rows: its loss differs by {gap:.3g} from"
            " that of its rows alone; use a model with plain causal attention (Llama, Qwen, Mistral and their kind)",
        )
    return gap


def _rows(loss: SupervisedLoss, device: torch.device) -> list[torch.Tensor]:
    size = loss.causal_lm.config.get_text_config().vocab_size
    tokens = torch.randint(size, (sum(_LENGTHS),), generator=torch.Generator().manual_seed(0))
    return [row[None].to(device) for row in torch.split(tokens, _LENGTHS)]


def _packed(loss: SupervisedLoss, device: torch.device, documents: attention.Documents) -> Inputs:
    tokens = torch.cat(_rows(loss, device), dim=1)
    positions = [torch.arange(length, device=device) for length in _LENGTHS]
    predicting = torch.cat([positions[0][:-1], positions[1][:-1] + _LENGTHS[0]])
    return Inputs(
        input_ids=tokens,
        position_ids=torch.cat(positions)[None],
        documents=documents,
        supervised_positions=predicting,
        labels=tokens[0][predicting + 1],
    )


def _alone(loss: SupervisedLoss, row: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of a row in the model's own forward pass, or peft's."""
    model = loss.causal_lm
    model.set_attn_implementation("eager")
    try:
        # Virtual tokens that stand before the row have logits too.
        logits = loss.model(input_ids=row, use_cache=False).logits[0, -row.shape[1] : -1]
    finally:
        model.set_attn_implementation(attention.IMPLEMENTATION)
    return torch.nn.functional.cross_entropy(logits.float(), row[0, 1:], reduction="sum")
