"""Muon for the matrices inside of the model, AdamW for everything else, as one optimizer.

Muon (https://kellerjordan.github.io/posts/muon/) makes the momentum of a matrix orthogonal before it is applied, so
that all its directions are learned alike. Its step is as large as AdamW's would be, by the factor
0.2 sqrt(max(rows, columns)) of https://arxiv.org/abs/2502.16982, so that one learning rate and one weight decay serve
both. Embeddings and the head are no maps between hidden states, and vectors have no directions: they learn by AdamW.

An orthogonal matrix cannot be made from a part of one: every process must hold whole matrices, and so does everything
at ZeRO stage 0, where DeepSpeed keeps an fp32 copy of each weight in its own shape. (Its own Muon divides the state,
but it clips the norm of what is orthogonal already, which makes every step as small as the largest allowed gradient.)
Gradients are clipped before: that weighs a step in the momentum, and leaves the size of the update alone.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_trainer.methods.freeze import decoder_layers
from finetune_trainer.model.weights import whole_shape

MUON = "muon"
"""Key of a parameter group: whether its members learn by Muon."""


def hidden_matrices(model: PreTrainedModel) -> set[nn.Parameter]:
    """Return the trained matrices of the layers, those of adapters among them."""
    trained = (parameter for parameter in decoder_layers(model).parameters() if parameter.requires_grad)
    return {parameter for parameter in trained if _is_matrix(whole_shape(parameter))}


def _is_matrix(shape: torch.Size) -> bool:
    return len(shape) == 2 and min(shape) > 1


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's own Muon and AdamW over the groups that are marked for each, with one state."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {})
        self._muon = torch.optim.Muon(self._members(of_muon=True), lr=0.0, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(self._members(of_muon=False), lr=0.0, betas=betas, eps=eps, fused=True)

    def _members(self, *, of_muon: bool) -> list[dict[str, Any]]:
        """Return groups; where there is none, one without members, since torch wants at least one."""
        found = [group for group in self.param_groups if group[MUON] is of_muon]
        return found or [{"params": []}]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do a step. Groups and state are handed on each time: whoever wraps or loads an optimizer replaces them."""
        assert closure is None  # noqa: S101 - nobody passes one
        for optimizer, of_muon in ((self._muon, True), (self._adamw, False)):
            optimizer.param_groups = self._members(of_muon=of_muon)
            if optimizer.param_groups[0]["params"]:
                optimizer.state = self.state
                optimizer.step()  # type: ignore[no-untyped-call]
