"""Compiled layers compute what the written ones do, and are compiled once for rows of all lengths."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from train_cases import write_cache
from transformers import AutoModelForCausalLM

from finetune_trainer.data.batches import micro_batch
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.lora_forward import add_in_one_pass
from finetune_trainer.model import attention
from finetune_trainer.model.compile import compile_layers, require_compiler, uncompiled
from finetune_trainer.model.load import recompute
from finetune_trainer.model.norm import fuse_norms
from finetune_trainer.objectives.sft import SupervisedLoss
from finetune_trainer.train.inputs import inputs_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Return micro-batches of 1 to 9 rows on the device."""
    folder = tmp_path_factory.mktemp("rows") / "cache"
    write_cache(folder)
    cache = TokenCache.open(folder, "train")
    return [inputs_of(micro_batch(cache, rows), CPU, "sdpa") for rows in ([4, 5, 6], range(9), [0], [7, 8])]


def load(tiny_model):
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention.IMPLEMENTATION)
    fuse_norms(model)
    return model


def adapted(tiny_model):
    """Return the loss of a model with adapters that are not zero."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(load(tiny_model), config, autocast_adapter_dtype=False)
    add_in_one_pass(model)
    return SupervisedLoss(model)


def gradients(loss, batch):
    """Return the loss of a micro-batch and its gradients by parameter."""
    loss.zero_grad()
    total, _ = loss(batch)
    total.backward()
    return total.item(), {name: one.grad for name, one in loss.named_parameters() if one.requires_grad}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_layers_have_the_losses_and_gradients_of_the_written_ones(tiny_model, batches):
    """With adapters, one layer recomputed and one not."""
    loss = adapted(tiny_model)
    recompute(loss.transformer, every=2)
    loss.train()
    written = [gradients(loss, batch) for batch in batches]
    torch._dynamo.reset()
    compile_layers(loss.transformer)
    graphs = []
    for batch, (expected, named) in zip(batches, written, strict=True):
        found, grads = gradients(loss, batch)
        assert found == pytest.approx(expected, rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, named[name], atol=1e-5, rtol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1] > 0
    before = counters["stats"]["unique_graphs"]
    with uncompiled(loss), torch.no_grad():
        loss(batches[0])
    assert counters["stats"]["unique_graphs"] == before


def test_every_second_layer_is_recomputed(tiny_model):
    model = load(tiny_model)
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
