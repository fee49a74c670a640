"""Attention in sliding windows computes what a mask of tokens x tokens would, without making one."""

import math

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig

from finetune_trainer.model import attention, sliding
from finetune_trainer.model.compile import compile_layers
from finetune_trainer.model.load import recompute

CPU = torch.device("cpu")
SCALE = 0.3
HEADS, KEY_HEADS, SIZE = 4, 2, 8
SHAPES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": SIZE,
    "pad_token_id": 0,
}


def layout(lengths, *, virtual_tokens=0):
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return attention.documents(bounds, CPU, "sdpa", virtual_tokens=virtual_tokens)


def states(total, dtype=torch.float32):
    """Return query, key and value of so many tokens."""
    torch.manual_seed(0)
    return [torch.randn(1, heads, total, SIZE, dtype=dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def in_blocks(query, key, value, lengths, window):
    """Return what the product computes, [1, T, heads, size]."""
    return attention.attend(
        torch.nn.Identity(),
        query,
        key,
        value,
        None,
        documents=layout(lengths),
        scaling=SCALE,
        sliding_window=window,
    )[0]


def seen(length, window):
    """Return the mask of tokens x tokens."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < window)


def with_masks(query, key, value, lengths, window):
    """Return the same of each document alone under its mask."""
    alone = []
    for parts in zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True):
        mask = seen(parts[0].shape[2], window)
        alone.append(scaled_dot_product_attention(*parts, attn_mask=mask, scale=SCALE, enable_gqa=True))
    return torch.cat(alone, dim=2).transpose(1, 2)


def with_gradients(compute, inputs, lengths, window):
    leaves = [one.clone().requires_grad_() for one in inputs]
    output = compute(*leaves, lengths, window)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return output, *torch.autograd.grad((output * weights.to(output.dtype)).sum(), leaves)


def around(window):
    return sorted({1, max(1, window - 1), window, window + 1, 3 * window + 5})


@pytest.mark.parametrize("window", [1, 2, 7, 64, 249, 256, 300, 700])
def test_outputs_and_gradients_are_those_of_a_mask(window):
    """Documents alone, of equal length in one block, and all kinds in one micro-batch."""
    lengths = around(window)
    for packed in (*([length] for length in lengths), [lengths[-1]] * 3, lengths, [*lengths, 513, 900]):
        inputs = states(sum(packed))
        ours = with_gradients(in_blocks, inputs, packed, window)
        theirs = with_gradients(with_masks, inputs, packed, window)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_window_longer_than_every_document_hides_nothing():
    inputs = states(60)
    whole, windowed = (in_blocks(*inputs, [40, 20], window) for window in (None, 1000))
    assert torch.equal(whole, windowed)


def test_a_document_of_a_window_needs_no_mask(monkeypatch):
    """Though a longer one stands in the same micro-batch."""
    masks = []

    def note(*states, attn_mask, **options):
        masks.append(None if attn_mask is None else attn_mask.shape[-1])
        return scaled_dot_product_attention(*states, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", note)
    in_blocks(*states(260), [200, 50, 10], 50)
    assert masks == [None, 200, None, None]  # the first 50 queries, 150 with all keys; both short documents


def test_virtual_tokens_of_a_prefix_stand_in_the_window():
    """Keys and values of 5 virtual tokens before each document, as if they were its first tokens."""
    lengths, count, window = [400, 30, 3], 5, 20
    query, key, value = states(sum(lengths))
    prefix = torch.randn(count, 1, 2, KEY_HEADS, SIZE, requires_grad=True)
    layer = torch.nn.Identity()
    layer.layer_idx = 0
    ours, _ = attention.attend(
        layer,
        query,
        key,
        value,
        None,
        documents=layout(lengths, virtual_tokens=count),
        prefix=prefix,
        scaling=SCALE,
        sliding_window=window,
    )
    keys, values = prefix[:, 0].unbind(1)
    alone = []
    for parts in zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True):
        nobody = torch.zeros(1, HEADS, count, SIZE)
        virtual = (nobody, keys.transpose(0, 1)[None], values.transpose(0, 1)[None])
        run = [torch.cat(pair, dim=2) for pair in zip(virtual, parts, strict=True)]
        alone.append(with_masks(*run, [run[0].shape[2]], window)[:, count:])
    theirs = torch.cat(alone, dim=1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(output.square().sum(), prefix)[0] for output in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


def test_bf16_errs_no_more_than_rounding_does_under_a_mask():
    """The gradients of chunks are rounded before they are summed up: half as much again, measured."""
    inputs, lengths, window = states(3000, torch.bfloat16), [2000, 1000], 700
    exact = with_gradients(with_masks, [one.double() for one in inputs], lengths, window)
    ours = with_gradients(in_blocks, inputs, lengths, window)
    theirs = with_gradients(with_masks, inputs, lengths, window)
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - truth).norm() < 2 * (other - truth).norm()


def test_all_runs_have_the_same_bits():
    torch.use_deterministic_algorithms(True)
    try:
        inputs = states(1500)
        first, second = (with_gradients(in_blocks, inputs, [900, 600], 100) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class _Made(TorchDispatchMode):
    """Notes the tensors, in bytes, that operations make: the largest, and the sum of all."""

    largest = total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        outputs = operation(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
            if isinstance(output, torch.Tensor) and output.untyped_storage().data_ptr() not in given:
                self.largest = max(self.largest, output.untyped_storage().nbytes())
                self.total += output.untyped_storage().nbytes()
        return outputs


def made_for(length, window):
    inputs = [one.requires_grad_() for one in states(length)]
    with _Made() as made:
        in_blocks(*inputs, [length], window).sum().backward()
    return made


def test_a_long_document_makes_no_tensor_of_tokens_by_tokens():
    """8192 tokens: such a mask would take 64 MiB as booleans; the largest tensor is that of the queries."""
    assert made_for(8192, 128).largest == 8192 * HEADS * SIZE * 4


def test_twice_as_long_a_document_makes_twice_as_much():
    """A gradient of the whole length for each chunk would make it thrice as much."""
    assert made_for(8192, 128).total < 2.1 * made_for(4096, 128).total


def test_the_mask_is_made_once_for_all_layers_of_a_micro_batch(monkeypatch):
    made = []
    band = sliding.band
    monkeypatch.setattr(sliding, "band", lambda *given: made.append(given) or band(*given))
    documents, (query, key, value) = layout([500, 300]), states(800)
    for window in (100, 100, 40, 100, None):
        attention.attend(torch.nn.Identity(), query, key, value, None, documents=documents, sliding_window=window)
    assert [given[0] for given in made] == [100, 40]


@pytest.mark.parametrize("window", [1, 7, 64, 255, 256, 2047, 4096])
def test_a_mask_grows_with_the_window_alone(window):
    mask = sliding.band(window, torch.float32, CPU)
    queries, keys = mask.shape
    assert queries <= 256
    assert keys == window + queries
    assert keys % 8 == 0  # or the kernel of GPUs pads a copy for each call
    assert torch.equal(mask == 0, seen(window + queries, window)[window:])
    assert math.isinf(mask.min().item())


CONFIGS = {
    "mistral": lambda: MistralConfig(num_hidden_layers=2, sliding_window=20, **SHAPES),
    # Every second layer sees all.
    "gemma3": lambda: Gemma3TextConfig(
        num_hidden_layers=2, sliding_window=20, layer_types=["sliding_attention", "full_attention"], **SHAPES
    ),
}


def models(kind):
    """Return two equal models with windows of 20 tokens: transformers' own, and one on packed rows."""
    attention.register()
    for implementation in ("eager", attention.IMPLEMENTATION):
        torch.manual_seed(0)
        yield AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation=implementation).train()


def forward(model, ids, lengths):
    """Return the logits of packed rows."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return model(ids, position_ids=positions, documents=layout(lengths), use_cache=False).logits


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
def test_a_model_has_the_loss_and_gradients_of_its_own_forward_pass(kind, recomputed):
    own, packed = models(kind)
    lengths = [300, 19, 20, 21, 290, 1, 65]
    ids = torch.randint(97, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    alone = torch.cat([own(row, use_cache=False).logits for row in ids.split(lengths, dim=1)], dim=1)
    if recomputed:
        recompute(packed, every=1)
    with _Made() as made:
        logits = forward(packed, ids, lengths)
        cross_entropy(logits[0], ids[0]).backward()
    cross_entropy(alone[0], ids[0]).backward()
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)
    assert made.largest < 4 * sum(lengths) ** 2
    for (name, mine), theirs in zip(packed.named_parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_layers_are_compiled_once_for_all_micro_batches(recomputed):
    _, model = models("mistral")
    if recomputed:
        recompute(model, every=1)
    cases = []
    for lengths in ([300, 19], [21, 290, 1], [700]):
        ids = torch.randint(97, (1, sum(lengths)))
        cases.append((ids, lengths, torch.autograd.grad(forward(model, ids, lengths).sum(), model.parameters())))
    torch._dynamo.reset()
    compile_layers(model)
    graphs = []
    for ids, lengths, written in cases:
        compiled = torch.autograd.grad(forward(model, ids, lengths).sum(), model.parameters())
        torch.testing.assert_close(compiled, written, atol=1e-4, rtol=1e-3)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1] > 0
