"""Adapters added in one pass: the numbers of peft's own forward pass, and peft's own where it does not fit."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.methods.lora_forward import add_in_one_pass

IDS = torch.arange(48).reshape(2, 24) % 90


def adapted(**options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=24, target_modules="all-linear", **options)
    model = get_peft_model(LlamaForCausalLM(config), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, and then nothing could be wrong
            torch.nn.init.normal_(parameter)
    return model


def outcome(model):
    """Return the logits, and the gradient of every trained parameter."""
    torch.manual_seed(1)
    logits = model(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits.detach(), {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize(
    "options", [{}, {"lora_dropout": 0.3}, {"bias": "all"}, {"use_rslora": True}, {"use_dora": True}]
)
def test_numbers_are_those_of_peft(options):
    theirs = adapted(**options)
    ours = copy.deepcopy(theirs)
    add_in_one_pass(ours)
    (logits, grads), (their_logits, their_grads) = outcome(ours), outcome(theirs)
    torch.testing.assert_close(logits, their_logits)
    assert grads.keys() == their_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, their_grads[name], msg=name)


def test_disabled_and_merged_adapters_are_left_out():
    model = adapted()
    add_in_one_pass(model)
    tuned = model(input_ids=IDS).logits
    with model.disable_adapter():
        assert not model(input_ids=IDS).logits.allclose(tuned)
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=IDS).logits, tuned, atol=1e-4, rtol=1e-4)


def test_output_takes_one_operation():
    model = adapted()
    add_in_one_pass(model)
    with torch.profiler.profile() as profile:
        model.base_model.model.model.layers[0].mlp.up_proj(torch.randn(1, 8, 32))
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::addmm_"] == 1
    assert "aten::add" not in counts


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_no_rows_at_all_have_a_gradient(dropout):
    """A process with nothing to predict takes part in the backward pass all the same."""
    layer = adapted(lora_dropout=dropout).base_model.model.model.layers[0].mlp.up_proj
    add_in_one_pass(layer)
    output = layer(torch.empty(0, 32))
    assert output.shape == (0, 48)
    output.sum().backward()
    assert not layer.lora_A["default"].weight.grad.any()
