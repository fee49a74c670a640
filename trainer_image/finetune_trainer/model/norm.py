"""Root-mean-square norms in few passes over the hidden states (https://arxiv.org/abs/1910.07467).

Models in transformers compute y = w x / rms(x) in single operations, and autograd goes back through each of them:
seventeen passes for a norm, and of 16-bit states a copy in fp32 that is kept in between. For CUDA, torch has a
kernel. Elsewhere the gradient is written out here: with s = 1 / rms(x) and h = g w for the gradient g of y, that of x
is s (h - x s^2 mean(h x)).
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import rms_norm

_WIDTH = 8
"""Of the norm on which a class is tried."""


def fuse_norms(model: nn.Module) -> None:
    """Compute the norms of a model so, as far as they are this norm; others, such as Gemma's, stay as they are."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    plain = {kind for kind in {type(norm) for norm in norms} if _is_plain(kind)}
    for module in norms:
        if type(module) in plain:
            module.forward = MethodType(_forward, module)


def _is_plain(kind: type[Any]) -> bool:
    """Whether a class computes w x / rms(x), by what it does with some numbers."""
    try:
        norm: Any = kind(_WIDTH)
        norm.weight.data = torch.linspace(-1, 3, _WIDTH)
        numbers = torch.linspace(-2, 5, 2 * _WIDTH).view(2, _WIDTH)
        expected = rms_norm(numbers, (_WIDTH,), norm.weight, _epsilon(norm))
        return torch.allclose(norm(numbers), expected)
    except (TypeError, AttributeError, RuntimeError):
        return False


def _epsilon(norm: Any) -> float:
    epsilon: float = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    return epsilon


def _forward(norm: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args or kwargs or x.dtype != norm.weight.dtype:
        inherited: torch.Tensor = type(norm).forward(norm, x, *args, **kwargs)
        return inherited
    if x.is_cuda:
        return rms_norm(x, norm.weight.shape, norm.weight, _epsilon(norm))
    normed: torch.Tensor = _Normed.apply(x, norm.weight, _epsilon(norm))
    return normed


class _Normed(torch.autograd.Function):
    """x [..., size] to w x / rms(x), computed in fp32 and rounded before w as transformers' models do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Return the output."""
        wide = x.float()
        scale = (torch.linalg.vecdot(wide, wide) / x.shape[-1]).add_(epsilon).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, scale)
        normed: torch.Tensor = (wide * scale).to(x.dtype)
        return normed.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return the gradients of the input and, where it is trained, of the weight."""
        x, weight, scale = ctx.saved_tensors
        wide, of_x, of_weight = x.float(), None, None
        if ctx.needs_input_grad[0]:
            inner = (gradient * weight).float()
            mean = torch.linalg.vecdot(inner, wide).unsqueeze(-1) / x.shape[-1]
            of_x = inner.addcmul_(wide, mean.mul_(scale).mul_(scale), value=-1).mul_(scale).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * (wide * scale).to(x.dtype)).flatten(0, -2).sum(0)
        return of_x, of_weight, None
