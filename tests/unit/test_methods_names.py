"""Names of modules in a spec: each must mean something, and means whole parts of a path in every method."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_model import moved
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec, Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import assemble_adapter
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import weights
from finetune_trainer.prepare.model_shape import measure

EARLIER = "s3://models/earlier/adapter/"
NORMS = ("input_layernorm", "post_attention_layernorm")
IDS = torch.arange(3, 40)[None]


@pytest.fixture
def untied(tiny_model):
    """Return a model whose head is a matrix of its own."""
    return AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=False), dtype=torch.float32
    )


def load(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def chosen(method, **given):
    return method_of(Method.model_validate(method), Given(**given))


def refused(method, model, **given):
    with pytest.raises(StageFailure) as caught:
        chosen(method, **given).adapt(model)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)
    return caught.value.message


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("method", "field", "name"),
    [
        ({"lora": {"targetModules": ["q_proj", "v_porj"]}}, "lora", "v_porj"),
        ({"lora": {"targetModules": ["q_proj", "proj"]}}, "lora", "proj"),
        ({"lora": {"modulesToSave": ["embed_token"]}}, "lora", "embed_token"),
        ({"lora": {"modulesToSave": ["model.layers.7.mlp"]}}, "lora", "model.layers.7.mlp"),
        ({"lora": {"modulesToSave": ["act_fn"]}}, "lora", "act_fn"),
        ({"type": "ia3", "ia3": {"targetModules": ["k_proj", "wv"]}}, "ia3", "wv"),
        ({"type": "freeze", "freeze": {"trainableModules": ["norm", "act_fn"]}}, "freeze", "act_fn"),
    ],
)
def test_a_name_of_no_module_is_refused(tiny_model, method, field, name):
    message = refused(method, load(tiny_model))
    assert message.startswith(f"spec.method.{field} does not fit the model: ")
    assert f"no module with weights is called {name}" in message


def test_a_name_of_no_module_is_told_what_is_near_to_it(tiny_model):
    message = refused({"lora": {"targetModules": ["q_proj", "v_porj"]}}, load(tiny_model))
    assert "targetModules: no module with weights is called v_porj (there is v_proj)" in message


def test_what_is_saved_is_what_is_called_so_and_not_what_ends_so(tiny_model):
    model = chosen({"lora": {"targetModules": ["q_proj"], "modulesToSave": ["norm"]}}).adapt(load(tiny_model))
    whole = {name for name in trained(model) if "lora_" not in name}
    assert whole == {"base_model.model.model.norm.modules_to_save.default.weight"}


@pytest.mark.parametrize(
    ("saved", "written"),
    [
        (["norm"], ["model.norm"]),
        (["layers.1.mlp", "norm"], ["layers.1.mlp", "model.norm"]),
        (["lm_head", "norm"], ["lm_head", "model.norm"]),
    ],
)
def test_the_result_means_the_same_to_peft_and_is_trained_further(untied, tiny_model, tmp_path, saved, written):
    untied.save_pretrained(tmp_path / "base")
    lora = {"targetModules": ["q_proj"], "modulesToSave": saved}
    method = chosen({"lora": lora})
    model = moved(method.adapt(load(tmp_path / "base")))
    weights.save(model, method, tmp_path / "weights", keep=True)
    adapter = tmp_path / "adapter"
    assemble_adapter(tmp_path / "weights", tokenizer=tiny_model, base_uri="s3://b/m/", target=adapter)
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == written
    further = {"type": "lora", "initialAdapter": {"uri": EARLIER}, "lora": lora}
    for again in (
        PeftModel.from_pretrained(load(tmp_path / "base"), adapter).eval(),
        chosen(further, adapter=adapter).adapt(load(tmp_path / "base")).eval(),
    ):
        with torch.no_grad():
            torch.testing.assert_close(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("saved", [["layers.0.mlp", "down_proj"], ["down_proj", "layers.0.mlp"]])
def test_a_module_within_another_one_is_not_named_too(tiny_model, saved):
    message = refused({"lora": {"targetModules": ["q_proj"], "modulesToSave": saved}}, load(tiny_model))
    assert "model.layers.0.mlp.down_proj is named, and a module that it is a part of" in message


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("norm", {"model.norm"}),
        ("*norm", {"model.norm", *(f"model.layers.{at}.{place}" for at in (0, 1) for place in NORMS)}),
        ("layers.[1-9].*_layernorm", {f"model.layers.1.{place}" for place in NORMS}),
        ("model.layers.?.input_layernorm", {"model.layers.0.input_layernorm", "model.layers.1.input_layernorm"}),
    ],
)
def test_freeze_takes_shell_patterns(tiny_model, pattern, expected):
    method = {"type": "freeze", "freeze": {"trainableLayers": 0, "trainableModules": [pattern]}}
    model = chosen(method).adapt(load(tiny_model))
    assert {name.removesuffix(".weight") for name in trained(model)} == expected


def test_a_pattern_of_no_module_is_refused(tiny_model):
    method = {"type": "freeze", "freeze": {"trainableModules": ["layers.[3-9].mlp"]}}
    message = refused(method, load(tiny_model))
    assert "trainableModules: no module with weights is called layers.[3-9].mlp" in message


@pytest.mark.parametrize("lora", [{}, {"modulesToSave": ["embed_tokens"]}, {"modulesToSave": ["lm_head"]}])
def test_an_adapter_is_compared_by_the_modules_it_means(tiny_model, tmp_path, lora):
    """A tied matrix has two names, and peft adds a classifier's head to the adapter's own."""
    first = chosen({"lora": lora})
    for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        if auto is AutoModelForSequenceClassification and lora.get("modulesToSave") == ["lm_head"]:
            continue  # it has none
        folder = tmp_path / auto.__name__
        weights.save(first.adapt(auto.from_pretrained(tiny_model)), first, folder, keep=True)
        further = {"type": "lora", "initialAdapter": {"uri": EARLIER}, "lora": lora}
        model = chosen(further, adapter=folder).adapt(auto.from_pretrained(tiny_model))
        assert trained(model) == trained(first.adapt(auto.from_pretrained(tiny_model)))


def test_an_adapter_that_trains_other_modules_whole_is_a_contradiction(tiny_model, tmp_path):
    config = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=["q_proj"], modules_to_save=["norm"]
    )
    get_peft_model(load(tiny_model), config).save_pretrained(tmp_path, save_embedding_layers=False)
    further = {"initialAdapter": {"uri": EARLIER}, "lora": {"modulesToSave": ["norm"]}}
    message = refused(further, load(tiny_model), adapter=tmp_path)
    assert '"model.layers.0.input_layernorm"' in message


TIED = [
    {"lora": {"targetModules": ["q_proj", "lm_head"]}},
    {"lora": {"targetModules": ["q_proj", "embed_tokens"]}},
    {"type": "qlora", "lora": {"targetModules": ["model.embed_tokens", "q_proj"]}},
    {"type": "ia3", "ia3": {"targetModules": ["k_proj", "lm_head"]}},
]


@pytest.mark.parametrize("method", TIED)
def test_an_adapter_beside_one_place_of_a_tied_matrix_is_not_merged(tiny_model, untied, method):
    message = refused(method, load(tiny_model), merges=True)
    assert "embeddings and head of the model are one matrix" in message
    assert "spec.output.merge: false" in message
    chosen(method, merges=True).adapt(untied)
    chosen(method).adapt(load(tiny_model))


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], r".*\.(q_proj|embed_tokens)"])
def test_nor_is_one_that_is_trained_further(tiny_model, tmp_path, targets):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets)
    get_peft_model(load(tiny_model), config).save_pretrained(tmp_path, save_embedding_layers=False)
    method = {"initialAdapter": {"uri": EARLIER}}
    assert "are one matrix" in refused(method, load(tiny_model), adapter=tmp_path, merges=True)


def test_what_is_merged_is_known_from_the_spec(tmp_path):
    blocks = {
        "model": {"uri": "s3://models/base/"},
        "data": {"train": [{"uri": "s3://data/rows.jsonl"}]},
        "training": {"epochs": 1},
        "checkpoint": {"uri": "s3://runs/"},
        "output": {"uri": "s3://output/", "merge": True},
    }
    given = Given.of(FineTuneJobSpec.model_validate(blocks), tokenizer=tmp_path / "none", adapter=tmp_path)
    assert given.merges


@pytest.mark.parametrize(
    ("tied", "target"), [(True, "embed_tokens"), (True, "lm_head"), (False, "embed_tokens"), (False, "lm_head")]
)
def test_rows_of_new_tokens_bear_no_adapter(tiny_model, untied, tied, target):
    method = {"lora": {"targetModules": ["q_proj", target]}}
    message = refused(method, load(tiny_model) if tied else untied, new_tokens=(500, 501))
    assert f"spec.model.newTokens trains rows of {'model.' if target != 'lm_head' else ''}{target}" in message
    assert "move it from targetModules to modulesToSave" in message


def test_a_matrix_is_trained_whole_or_beside(tiny_model):
    method = {"lora": {"targetModules": ["q_proj", "lm_head"], "modulesToSave": ["embed_tokens"]}}
    assert "targetModules: lm_head is the matrix that modulesToSave trains whole" in refused(method, load(tiny_model))


def test_what_is_scaled_before_is_what_is_called_so(tiny_model):
    base = load(tiny_model)
    for layer in base.model.layers:
        layer.mlp.proj = layer.mlp.down_proj
        del layer.mlp.down_proj
    settings = {"targetModules": ["k_proj", "proj"], "feedforwardModules": ["proj"]}
    model = chosen({"type": "ia3", "ia3": settings}).adapt(base)
    before = {name for name, one in model.named_parameters() if one.requires_grad and one.shape[0] == 1}
    assert len(before) == 2
    assert all("mlp.proj." in name for name in before)


@pytest.mark.parametrize("targets", [[], ["k_proj"]])
def test_what_is_scaled_before_is_scaled(tiny_model, targets):
    settings = {"targetModules": targets, "feedforwardModules": ["down_proj"]}
    message = refused({"type": "ia3", "ia3": settings}, load(tiny_model))
    assert "feedforwardModules must stand in targetModules" in message


def test_what_peft_cannot_train_whole_is_refused(tiny_model):
    message = refused({"lora": {"targetModules": ["lm_head"], "modulesToSave": ["layers"]}}, load(tiny_model))
    assert message.startswith("spec.method.lora does not fit the model: ")
    assert "ModuleList" in message


@pytest.mark.parametrize(
    ("saved", "passes"),
    [(["down_proj"], False), (["layers.1.mlp"], False), (["embed_tokens", "lm_head"], True), (["norm"], True)],
)
@pytest.mark.parametrize("bits", [4, 8])
def test_layers_of_few_bits_are_not_trained_whole(tiny_model, saved, passes, bits):
    config = AutoConfig.from_pretrained(tiny_model)
    lora = {"targetModules": ["q_proj"], "modulesToSave": saved}
    method = Method.model_validate({"type": "qlora", "quantization": {"bits": bits}, "lora": lora})
    if passes:
        assert measure(config, method, "s3://m/").trainable_parameters
    else:
        with pytest.raises(StageFailure, match=r"modulesToSave: model\.layers\.\d\.mlp.* holds layers of few bits"):
            measure(config, method, "s3://m/")
