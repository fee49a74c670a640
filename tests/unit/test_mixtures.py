"""Mixtures of experts: transformers joins the experts of their files into one tensor, and takes them apart again."""

import pytest
import torch
from safetensors import safe_open
from tiny_mixture import KINDS, write_tiny_mixture
from tiny_model import write_tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.spec import Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import (
    assemble_adapter,
    assemble_model,
    assemble_partial,
    load_adapter,
    load_base,
    merge,
)
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.prepare.model_shape import measure

IDS = torch.arange(3, 40)[None]
LANGUAGE_MODEL = ModelKind()
FREEZE = {"type": "freeze", "freeze": {"trainableLayers": 1}}


@pytest.fixture(params=KINDS)
def mixture(request, tmp_path):
    """Return the folder of a base model."""
    write_tiny_mixture(tmp_path / "base", request.param)
    return tmp_path / "base"


@pytest.fixture
def tokenizer(tmp_path):
    write_tiny_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def adapted(base, spec, *, seed=1):
    """Return a method and its model, the trained parameters moved away from where they began."""
    chosen = method_of(Method.model_validate(spec))
    model = chosen.adapt(load_base(base, None, LANGUAGE_MODEL))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return chosen, model.eval()


def committed(base, spec, folder):
    """Write the weights of a commit; return what the trained model, and another one that they went into, say."""
    chosen, model = adapted(base, spec)
    weights.save(model, chosen, folder, keep=True)
    _, other = adapted(base, spec, seed=2)
    weights.restore(other, chosen, folder)
    return told(model), told(other)


def told(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def keys(folder):
    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= set(file.keys())
    return found


@pytest.mark.parametrize("spec", [{"type": "full"}, FREEZE], ids=["full", "freeze"])
def test_a_whole_model_is_saved_restored_and_published_with_the_names_of_its_kind(mixture, tokenizer, tmp_path, spec):
    trained, restored = committed(mixture, spec, tmp_path / "weights")
    assert restored.equal(trained)
    options = {"kind": LANGUAGE_MODEL, "tokenizer": tokenizer, "target": tmp_path / "merged"}
    if spec["type"] == "full":
        assemble_model(tmp_path / "weights", **options)
    else:
        assemble_partial(mixture, tmp_path / "weights", **options)
    assert keys(tmp_path / "merged") == keys(mixture)
    published = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(told(published), trained, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(trained, told(load_base(mixture, None, LANGUAGE_MODEL)), atol=1e-2)


def test_low_rank_matrices_of_experts_are_published_merged_and_trained_further(tokenizer, tmp_path):
    base = tmp_path / "base"
    write_tiny_mixture(base, "qwen3_moe")
    trained, restored = committed(base, {"type": "lora"}, tmp_path / "weights")
    assert restored.equal(trained)
    assert any("mlp.experts.lora_A" in key for key in keys(tmp_path / "weights"))
    adapter = tmp_path / "adapter"
    assemble_adapter(tmp_path / "weights", tokenizer=tokenizer, base_uri="s3://m/", target=adapter)
    loaded = load_adapter(load_base(base, None, LANGUAGE_MODEL), adapter)
    torch.testing.assert_close(told(loaded), trained, atol=1e-5, rtol=1e-5)
    merge(base, adapter, kind=LANGUAGE_MODEL, quantization=None, tokenizer=tokenizer, target=tmp_path / "merged")
    assert keys(tmp_path / "merged") == keys(base)
    published = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(told(published), trained, atol=1e-4, rtol=1e-4)
    further = Method.model_validate({"type": "lora", "initialAdapter": {"uri": "s3://models/adapter/"}})
    model = method_of(further, Given(adapter=adapter)).adapt(load_base(base, None, LANGUAGE_MODEL))
    torch.testing.assert_close(told(model.eval()), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "left_out"), [("qwen3_moe", 0), ("mixtral", 0), ("qwen2_moe", 2 * 4 * 3 * 64 * 32)])
def test_experts_that_no_adapter_changes_are_counted(kind, left_out, tmp_path):
    write_tiny_mixture(tmp_path, kind)
    config = AutoConfig.from_pretrained(tmp_path)
    assert measure(config, Method.model_validate({"type": "lora"}), "s3://m/").experts_left_out == left_out
    named = {"type": "lora", "lora": {"targetModules": ["q_proj"]}}
    assert measure(config, Method.model_validate(named), "s3://m/").experts_left_out == 0
    assert measure(config, Method.model_validate({"type": "full"}), "s3://m/").experts_left_out == 0


@pytest.mark.parametrize("lora", [{"dropout": 0.1}, {"useDora": True}])
def test_what_experts_do_not_take_is_said(lora, tmp_path):
    write_tiny_mixture(tmp_path, "qwen3_moe")
    with pytest.raises(
        StageFailure, match=r"experts .* neither dropout nor DoRA; .*\[q_proj, k_proj, v_proj, o_proj\]"
    ):
        adapted(tmp_path, {"type": "lora", "lora": lora})


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
def test_bottlenecks_stand_behind_the_mixture(placement, tokenizer, tmp_path):
    base = tmp_path / "base"
    write_tiny_mixture(base, "qwen3_moe")
    spec = {"type": "adapter", "adapter": {"placement": placement}}
    trained, _ = committed(base, spec, tmp_path / "weights")
    assert {key.split(".")[3] for key in keys(tmp_path / "weights")} >= {"mlp"}
    assemble_adapter(tmp_path / "weights", tokenizer=tokenizer, base_uri="s3://m/", target=tmp_path / "adapter")
    loaded = load_adapter(load_base(base, None, LANGUAGE_MODEL), tmp_path / "adapter")
    torch.testing.assert_close(told(loaded), trained, atol=1e-6, rtol=1e-6)
