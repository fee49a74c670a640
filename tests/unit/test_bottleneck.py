"""Bottleneck adapters: nothing at first, and what the file beside the weights loads is what was trained."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from finetune_api.spec import Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import method_of

IDS = torch.arange(3, 40)[None]


def adapter(**settings):
    return method_of(Method.model_validate({"type": "adapter", "adapter": settings}))


@pytest.mark.parametrize(("placement", "places"), [("houlsby", 2), ("pfeiffer", 1)])
def test_the_model_begins_as_the_base_and_trains_the_adapters_alone(tiny_model, placement, places):
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        model = adapter(placement=placement, reductionFactor=8).adapt(base)
        assert torch.equal(model(input_ids=IDS).logits, before)
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(trained) == 2 * places * (2 * 64 * 8 + 8 + 64)


def test_a_model_whose_attention_returns_other_things_too_is_adapted():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    adapted = adapter(placement="houlsby").adapt(model)
    assert adapted(input_ids=IDS).logits.shape == (1, 37, 64)


def test_a_model_without_such_parts_is_refused():
    config = OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(StageFailure, match="no part of its own for feed-forward"):
        adapter().adapt(OPTForCausalLM(config))
