"""What all objectives have in common: a decoder over packed documents, and a loss on some of its hidden states.

The sum of the losses is returned, not a mean: only the training loop knows how much the whole step weighs. With
nothing to predict the sum is 0 with a graph, so that the process still takes part in every collective of the backward
pass.
"""

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune_trainer.model.attention import Documents
from finetune_trainer.objectives.noise import EmbeddingNoise


@dataclass(frozen=True)
class Inputs:
    """A micro-batch on the device, as MicroBatch describes it, with the layout of its documents."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    documents: Documents
    supervised_positions: torch.Tensor
    labels: torch.Tensor


class LossModule(nn.Module):
    """A model with its loss; a subclass says which."""

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0, noise_alpha: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._label_smoothing = label_smoothing
        self._noise = EmbeddingNoise(self.transformer.get_input_embeddings(), noise_alpha)

    def forward(self, inputs: Inputs, *, count: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the losses (fp32), and what scores are made of, float64 [K]; [0] unless asked to `count`.

        Counts of several batches, and of several processes, are added up.
        """
        with self._noise.on(inputs.documents if self.training else None):
            hidden = self.hidden_states(inputs)[inputs.supervised_positions]
        return self.predict(hidden, inputs.labels, count=count)

    def predict(
        self, hidden: torch.Tensor, labels: torch.Tensor, *, count: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `forward` does, given hidden states [P, hidden size] and what they predict, int64 [P]."""
        raise NotImplementedError

    def each_loss(self, inputs: Inputs) -> torch.Tensor:
        """Return the loss of each target, fp32 [P], unweighted. It keeps their logits, so they must be few."""
        logits = self.logits(self.hidden_states(inputs)[inputs.supervised_positions])
        return cross_entropy(logits.float(), inputs.labels, reduction="none")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what the head makes of hidden states [P, hidden size]."""
        raise NotImplementedError

    def targets_of(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return positions and labels, int64 [P] each, that try this module on a document of T tokens, int64 [T]."""
        raise NotImplementedError

    def own_loss(self, row: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of those targets by the model's own forward pass, as transformers wrote it."""
        raise NotImplementedError

    @property
    def smoothing(self) -> float:
        """Label smoothing: it belongs to training, evaluations have none."""
        return self._label_smoothing if self.training else 0.0

    def hidden_states(self, inputs: Inputs) -> torch.Tensor:
        """Return the last hidden states, [T, hidden size]."""
        output = self.transformer.get_decoder()(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            documents=inputs.documents,
            use_cache=False,
        )
        states: torch.Tensor = output.last_hidden_state[0]
        return states

    @property
    def transformer(self) -> PreTrainedModel:
        """The transformers model, whether or not adapters wrap it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
