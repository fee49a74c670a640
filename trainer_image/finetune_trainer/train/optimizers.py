"""The optimizer that a spec names, and which parameters decay.

Muon has a module of its own (`muon.py`). 8-bit states (https://arxiv.org/abs/2110.02861) take 2 bytes per trained
parameter where 32 bits take 8. Paged ones stand in memory that CUDA moves to the host while a step needs the room
(https://arxiv.org/abs/2305.14314).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from finetune_api.spec import Optimizer
from finetune_trainer.methods.ia3 import factors_of
from finetune_trainer.model.sharded import whole_shape
from finetune_trainer.objectives import LossModule
from finetune_trainer.train.muon import MUON, MuonWithAdamW, hidden_matrices

RATE = "rate"
"""Key of a parameter group: its share of the run's learning rate, which the loop sets in every step."""
_PAGED = {"state1", "state2"}
"""What bitsandbytes calls the moments."""

Rates = Mapping[nn.Parameter, float]


def make_optimizer(loss: LossModule, settings: Optimizer, rates: Rates) -> torch.optim.Optimizer:
    """Return the optimizer of the trained parameters, those named in `rates` at a share of the learning rate."""
    betas = (settings.betas[0], settings.betas[1])
    if settings.type == "muon":
        by_muon = hidden_matrices(loss.transformer)
        groups = parameter_groups(loss, settings.weight_decay, rates, by_muon)
        return MuonWithAdamW(groups, betas=betas, eps=settings.eps)
    groups = parameter_groups(loss, settings.weight_decay, rates)
    options: dict[str, Any] = {"lr": 0.0, "betas": betas, "eps": settings.eps}
    if settings.type == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    from bitsandbytes import optim

    kinds = {
        "adamw8bit": optim.AdamW8bit,
        "pagedAdamw8bit": optim.PagedAdamW8bit,
        "pagedAdamw32bit": optim.PagedAdamW32bit,
    }
    optimizer: torch.optim.Optimizer = kinds[settings.type](groups, **options)
    return optimizer


def parameter_groups(
    module: nn.Module, weight_decay: float, rates: Rates, by_muon: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups: matrices decay, vectors (norms, biases, factors of ia3) do not."""
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    factors = factors_of(module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            is_matrix = len(whole_shape(parameter)) > 1 and parameter not in factors
            decay, rate = weight_decay if is_matrix else 0.0, rates.get(parameter, 1.0)
            groups[decay, rate, parameter in by_muon].append(parameter)
    return [
        {"params": members, "weight_decay": decay, RATE: rate, MUON: is_muon}
        for (decay, rate, is_muon), members in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def shapes_in_groups(module: nn.Module, settings: Optimizer, rates: Rates) -> dict[str, torch.Size]:
    """Return the shapes of the trained parameters by name, in the order of the optimizer's groups."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, settings.weight_decay, rates)
    members = [parameter for group in groups for parameter in group["params"]]
    return {names[parameter]: whole_shape(parameter) for parameter in members}


def page(optimizer: Any) -> None:
    """Give a paged optimizer, bare or as DeepSpeed wraps it, its loaded state in memory that CUDA may move.

    bitsandbytes takes such memory for the states of a first step alone; loaded ones stand fixed on the GPU.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for name in _PAGED.intersection(state):
            paged = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
            state[name] = paged.copy_(state[name])
    if optimizer.state:
        # What the state took is free in torch's cache alone, and managed memory does not come from there.
        torch.cuda.empty_cache()


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[RATE]
