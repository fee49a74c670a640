"""Norms in few passes: the numbers and gradients of transformers' own, and no other norm touched."""

import copy

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from finetune_trainer.model.norm import fuse_norms

TOLERANCE = {torch.float32: {}, torch.bfloat16: {"atol": 0.05, "rtol": 0.05}}


def is_fused(norm):
    fuse_norms(norm)
    return "forward" in vars(norm)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (LlamaRMSNorm(16), True),
        (Qwen3RMSNorm(16), True),
        (Gemma3RMSNorm(16), False),  # its weight is what is added to one
        (torch.nn.LayerNorm(16), False),
    ],
)
def test_only_the_plain_norm_is_replaced(norm, expected):
    assert is_fused(norm) == expected


def trained(norm, x, *, weight):
    """Return the output, and the gradients of input and weight."""
    x = x.clone().requires_grad_()
    norm.requires_grad_(weight)
    out = norm(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return out, x.grad, norm.weight.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("shape", [(1, 7, 16), (1, 7, 3, 16)])
def test_numbers_and_gradients_are_those_of_transformers(dtype, weight, shape):
    torch.manual_seed(0)
    theirs = LlamaRMSNorm(16, eps=1e-3)
    torch.nn.init.normal_(theirs.weight)
    theirs = theirs.to(dtype)
    ours = copy.deepcopy(theirs)
    assert is_fused(ours)
    x = torch.randn(shape).to(dtype)
    for found, expected in zip(trained(ours, x, weight=weight), trained(theirs, x, weight=weight), strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, **TOLERANCE[dtype])


def test_a_copy_normalises_with_its_own_weight():
    """peft copies a module that is trained whole."""
    norm = LlamaRMSNorm(16)
    fuse_norms(norm)
    other = copy.deepcopy(norm)
    torch.nn.init.zeros_(other.weight)
    assert norm(torch.ones(1, 16)).any()
    assert not other(torch.ones(1, 16)).any()


def test_weights_in_another_number_format_keep_their_own_rule():
    norm = Olmo2RMSNorm(16)
    fuse_norms(norm)
    x = torch.randn(2, 16).bfloat16()
    assert torch.equal(norm(x), Olmo2RMSNorm(16)(x))
