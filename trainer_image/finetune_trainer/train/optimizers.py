"""The optimizer that a spec names, and which parameters decay.

8-bit states (https://arxiv.org/abs/2110.02861) take 2 bytes per trained parameter where 32 bits take 8. Paged ones
stand in memory that CUDA moves to the host while a step needs the room (https://arxiv.org/abs/2305.14314).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from finetune_api.spec import Optimizer


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer of the trained parameters; the loop sets the learning rate in every step."""
    groups = decay_groups(parameters, settings.weight_decay)
    options: dict[str, Any] = {"lr": 0.0, "betas": (settings.betas[0], settings.betas[1]), "eps": settings.eps}
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


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in groups: matrices decay, vectors (norms, biases) do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # A parameter sharded by ZeRO stage 3 is flat; DeepSpeed keeps its shape.
    matrices = [parameter for parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) > 1]
    held = {id(parameter) for parameter in matrices}
    vectors = [parameter for parameter in trained if id(parameter) not in held]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
