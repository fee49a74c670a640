import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from finetune_trainer.model import attention

CPU = torch.device("cpu")


def layout(lengths):
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return attention.documents(bounds, CPU, "sdpa")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_every_token_gets_its_own_cell_back(lengths):
    documents = layout(lengths)
    assert torch.equal(documents.cells[documents.restore], torch.arange(sum(lengths)))
    assert len(documents.cells) == sum(rows * length for rows, length in documents.blocks)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
@settings(deadline=None)
def test_groups_hold_each_document_once_with_little_padding(lengths):
    groups = attention.group(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert all(longest - lengths[index] <= max(32, longest // 4) for index in group)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("lengths", [[7], [3, 50, 9, 1, 48], [200, 5, 5, 180, 60, 61]])
def test_attention_equals_that_of_each_document_alone(lengths, window):
    torch.manual_seed(0)
    total = sum(lengths)
    query = torch.randn(1, 6, total, 8, requires_grad=True)
    key, value = (torch.randn(1, 2, total, 8, requires_grad=True) for _ in range(2))
    packed, _ = attention.attend(
        torch.nn.Identity(), query, key, value, None, documents=layout(lengths), scaling=0.3, sliding_window=window
    )
    alone, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        distance = torch.arange(length)[:, None] - torch.arange(length)
        seen = (distance >= 0) & (distance < (window or total))
        alone.append(
            scaled_dot_product_attention(
                query[:, :, part], key[:, :, part], value[:, :, part], attn_mask=seen, scale=0.3, enable_gqa=True
            )
        )
        start += length
    expected = torch.cat(alone, dim=2).transpose(1, 2)
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((packed * weights).sum(), (query, key, value), retain_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_that_is_not_computed_is_refused(name):
    heads = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match=name):
        attention.attend(torch.nn.Identity(), heads, heads, heads, None, documents=layout([4]), **{name: 1.0})


@pytest.mark.parametrize(
    ("device", "dtype", "backend"),
    [
        ("cuda", torch.bfloat16, "varlen"),
        ("cuda", torch.float32, "sdpa"),
        ("cpu", torch.bfloat16, "sdpa"),
        ("cpu", torch.float32, "sdpa"),
    ],
)
def test_backend_by_device_and_number_format(device, dtype, backend):
    assert attention.backend_for(torch.device(device), dtype) == backend
