"""Supervised fine-tuning: cross-entropy of the supervised tokens, and of nothing else.

The head is applied to the hidden states at supervised positions alone, and in tiles of many tokens, so that the
logits of a whole batch never exist: they would be the largest tensor of the step. The sum is returned, not a mean:
only the training loop knows how many supervised tokens the whole step has.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.model.attention import Documents
from finetune_trainer.objectives.head import Scoring, is_one_matrix, score, score_by_module
from finetune_trainer.objectives.noise import EmbeddingNoise


@dataclass(frozen=True)
class Inputs:
    """A micro-batch on the device, as MicroBatch describes it, with the layout of its documents."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    documents: Documents
    supervised_positions: torch.Tensor
    labels: torch.Tensor


class SupervisedLoss(nn.Module):
    """A causal language model with its loss."""

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0, noise_alpha: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._label_smoothing = label_smoothing
        self._noise = EmbeddingNoise(self.causal_lm.get_input_embeddings(), noise_alpha)

    def forward(self, inputs: Inputs, *, count_correct: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropies, and how many tokens were predicted right (0 unless counted).

        With nothing supervised the sum is 0 with a graph, so that the process still takes part in every
        collective of the backward pass.
        """
        with self._noise.on(inputs.documents if self.training else None):
            hidden = self.hidden_states(inputs)[inputs.supervised_positions]
        head = self.causal_lm.get_output_embeddings()
        if not len(hidden):
            return head(hidden).float().sum(), inputs.labels.sum()
        scoring = Scoring(count_correct, self._label_smoothing if self.training else 0.0)
        if is_one_matrix(head):
            return score(head, hidden, inputs.labels, scoring)
        vocabulary = self.causal_lm.config.get_text_config().vocab_size
        return score_by_module(head, hidden, inputs.labels, scoring, vocabulary=vocabulary)

    def hidden_states(self, inputs: Inputs) -> torch.Tensor:
        """Return the last hidden states, [T, hidden size]."""
        output = self.causal_lm.get_decoder()(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            documents=inputs.documents,
            use_cache=False,
        )
        states: torch.Tensor = output.last_hidden_state[0]
        return states

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model, whether or not adapters wrap it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
