"""Compiled layers compute what the written ones do, and are compiled once for rows of all lengths."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_train_loss import CPU, inputs, load
from torch._dynamo.utils import counters

from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.lora_forward import add_in_one_pass
from finetune_trainer.model import selfcheck
from finetune_trainer.model.compile import compile_layers, require_compiler, uncompiled
from finetune_trainer.model.load import recompute
from finetune_trainer.objectives.sft import SupervisedLoss

BATCHES = ([9, 4, 30, 1, 12], [60, 3], [5, 5, 5, 5, 41, 2, 17])


def gradients(loss, lengths):
    """Return the loss of a micro-batch and its gradients by parameter."""
    loss.zero_grad()
    total, _ = loss(inputs(lengths))
    total.backward()
    named = {name: parameter.grad for name, parameter in loss.named_parameters() if parameter.requires_grad}
    return total.item(), named


def adapted(tiny_model):
    model = load(tiny_model).transformer
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    add_in_one_pass(model)
    return SupervisedLoss(model)


@pytest.mark.timeout(300)
def test_compiled_layers_have_the_losses_and_gradients_of_the_written_ones(tiny_model):
    """With adapters, one layer recomputed and one not."""
    loss = adapted(tiny_model)
    recompute(loss.transformer, every=2)
    loss.train()
    written = [gradients(loss, lengths) for lengths in BATCHES]
    torch._dynamo.reset()
    compile_layers(loss.transformer)
    graphs = []
    for lengths, (expected, named) in zip(BATCHES, written, strict=True):
        found, grads = gradients(loss, lengths)
        assert found == pytest.approx(expected, rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, named[name], atol=1e-5, rtol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1] > 0
    assert selfcheck.check(loss, CPU, "sdpa") < 1e-3
    before = counters["stats"]["unique_graphs"]
    with uncompiled(loss), torch.no_grad():
        loss(inputs([7]))
    assert counters["stats"]["unique_graphs"] == before


def test_every_second_layer_is_recomputed(tiny_model):
    model = load(tiny_model).transformer
    recompute(model, every=2)
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [True, False]
    recompute(model, every=1)
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [True, True]


def test_a_missing_compiler_is_told_at_once(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        StageFailure, match=r"spec\.training\.compile needs a C\+\+ compiler .* no-such-compiler is not"
    ):
        require_compiler()
    monkeypatch.setenv("CXX", "sh")
    require_compiler()
