"""Proves, before training, that the packed path computes what the model computes.

Two short documents go through the model in one packed row, with our attention and our loss head; then each goes
through transformers' own forward pass, or peft's, alone. A model with anything that packing would break - attention
our backends do not compute, logits scaled after the head - differs, and is refused. Then the first document gives
way to another one: a model whose second document notices carries state from token to token, and is refused too.
"""

import torch
from transformers import PreTrainedModel

from finetune_trainer.model import attention
from finetune_trainer.model.compile import uncompiled
from finetune_trainer.model.packable import not_packable
from finetune_trainer.objectives.module import LossModule
from finetune_trainer.objectives.whole_rows import whole_rows

_LENGTHS = [7, 5]
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2}
"""Largest difference of two mean losses, in nats: rounding is far below it, a mistake far above."""
_INFLUENCE = 1e-4
"""Largest change of a token's last hidden state, as a share of its norm, by what stands before its document."""
_ROUNDED_INFLUENCE = 0.05
"""The same where other rows decide on rounding: experts get other numbers of tokens, and numbers of 8 bits are scaled
for all rows at once. State that is carried changes a trained model's hidden states by much more.
"""


def check(loss: LossModule, device: torch.device, backend: attention.Backend, *, virtual_tokens: int = 0) -> float:
    """Return the difference of losses. Raises StageFailure when it is no rounding. Every process must call it."""
    was_training = loss.training
    loss.eval()
    first, second, other = _rows(loss, device)
    try:
        with torch.no_grad():
            inputs, others = (
                whole_rows(loss, rows, backend, virtual_tokens=virtual_tokens)
                for rows in ([first, second], [other, second])
            )
            packed, _ = loss(inputs)
            alone = torch.stack([_alone(loss, row) for row in (first, second)]).sum()
            influence = _difference(*(loss.hidden_states(each)[len(first) :] for each in (inputs, others)))
    except (ValueError, TypeError, AttributeError) as error:
        raise not_packable(loss.transformer, str(error)) from error
    loss.train(was_training)
    gap: float = abs(packed.item() - alone.item()) / len(inputs.labels)
    dtype = next(loss.parameters()).dtype
    if not gap <= _TOLERANCE[dtype]:
        raise not_packable(loss.transformer, f"its loss differs by {gap:.3g} from that of its rows alone")
    if not influence <= (_ROUNDED_INFLUENCE if _rows_share_rounding(loss.transformer) else _INFLUENCE):
        raise not_packable(loss.transformer, f"a row changes by {influence:.1%} with what stands before it")
    return gap


def _rows(loss: LossModule, device: torch.device) -> list[torch.Tensor]:
    """Return two documents, and another one in the place of the first."""
    size = loss.transformer.config.get_text_config().vocab_size
    lengths = [*_LENGTHS, _LENGTHS[0]]
    tokens = torch.randint(size, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return [row.to(device) for row in torch.split(tokens, lengths)]


def _alone(loss: LossModule, row: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of a row in the model's own forward pass."""
    model = loss.transformer
    model.set_attn_implementation("eager")
    try:
        with uncompiled(model):
            return loss.own_loss(row)
    finally:
        model.set_attn_implementation(attention.IMPLEMENTATION)


def _difference(states: torch.Tensor, others: torch.Tensor) -> float:
    """Return the largest change of a token, of states [T, hidden size], as a share of its norm."""
    states, others = states.float(), others.float()
    largest: float = ((states - others).norm(dim=1) / states.norm(dim=1)).max().item()
    return largest


def _rows_share_rounding(model: PreTrainedModel) -> bool:
    has_experts = bool(getattr(model.config.get_text_config(), "num_experts_per_tok", None))
    is_short = model.dtype is not torch.float32
    return (has_experts and is_short) or bool(getattr(model, "is_loaded_in_8bit", False))
