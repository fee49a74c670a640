"""What a model's shape says beside plain counts."""

import json
import re

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig, LlamaForCausalLM

from finetune_api.reasons import Reason
from finetune_api.spec import Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.prepare.model_shape import measure, read_config


def small_shape(method: str, settings: dict | None, *, layers: int, tied: bool):
    """Return the shape of a small Llama under a method."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    spec = {"type": method, method: settings} if settings else {"type": method}
    return measure(config, Method.model_validate(spec), "s3://m/")


@pytest.mark.parametrize(
    ("method", "settings", "tied", "kept"),
    [
        ("freeze", {"trainableLayers": 1}, True, 1),
        ("freeze", {"trainableLayers": 4}, True, 4),
        ("freeze", {"trainableLayers": 0, "trainableModules": ["layers.1.mlp"]}, True, 3),
        ("freeze", {"trainableLayers": 0, "trainableModules": ["lm_head"]}, False, 0),
        ("freeze", {"trainableLayers": 0, "trainableModules": ["lm_head"]}, True, 4),  # they are the embeddings too
        ("freeze", {"trainableLayers": 1, "trainableModules": ["embed_tokens"]}, False, 4),
        ("lora", {"targetModules": ["all-linear"]}, True, 4),
        ("lora", {"targetModules": ["layers.3.mlp.down_proj", "layers.2.mlp.down_proj"]}, True, 2),
        ("lora", {"targetModules": ["layers.3.mlp.down_proj"], "modulesToSave": ["embed_tokens"]}, False, 4),
        ("prompt", {"numVirtualTokens": 4}, True, None),
        ("full", None, True, 4),
    ],
)
def test_layers_keep_activations_from_the_first_trained_one_on(method, settings, tied, kept):
    assert small_shape(method, settings, layers=4, tied=tied).layers_kept == kept


@pytest.mark.parametrize(
    ("method", "settings", "tied", "trained"),
    [
        ("full", None, False, True),
        ("full", None, True, True),
        ("lora", {}, True, False),
        ("lora", {"modulesToSave": ["lm_head"]}, False, True),
        ("freeze", {"trainableLayers": 1}, False, False),
        ("freeze", {"trainableLayers": 0, "trainableModules": ["embed_tokens"]}, True, True),
    ],
)
def test_a_head_that_is_trained_is_told(method, settings, tied, trained):
    assert small_shape(method, settings, layers=2, tied=tied).trained_head == (32 * 16 if trained else 0)


SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


def shape_of(kind: str, method: str = "full", **settings: object):
    """Return the shape of a small model of a kind."""
    config = CONFIG_MAPPING[kind](**{**SMALL, "pad_token_id": 0, **settings})
    return measure(config, Method.model_validate({"type": method}), "s3://m/")


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
def test_layers_are_found_where_the_decoder_is_not_told(method):
    shape = shape_of("modernbert-decoder", method, intermediate_size=32, num_hidden_layers=4)
    assert (shape.layers, shape.layers_kept) == (4, 2 if method == "freeze" else 4)


def test_of_layers_with_sizes_of_their_own_the_largest_counts():
    sizes = {"intermediate_size": [32, 64], "layer_types": ["sliding_attention", "full_attention"]}
    small = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 32, "num_kv_shared_layers": 0}
    assert shape_of("gemma3n_text", **sizes, **small, activation_sparsity_pattern=[0.0, 0.0]).intermediate_size == 64


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
def test_a_model_whose_layers_are_not_found_is_refused(method):
    """Its configuration counts two for each layer there is."""
    sizes = {"num_layers": 3, "num_hidden_layers": 6, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 8}
    with pytest.raises(StageFailure, match="has no list of 6 layers") as caught:
        shape_of("longcat_flash", method, **sizes, n_routed_experts=2, moe_topk=1)
    assert caught.value.reason == Reason.INVALID_MODEL


@pytest.mark.parametrize("kind", ["gptj", "falcon", "gpt_neo", "bloom", "mpt"])
@pytest.mark.parametrize("labels", [(), ("good", "bad")], ids=["language-model", "classifier"])
def test_a_model_that_computes_attention_itself_is_refused(kind, labels):
    types = {"attention_types": [[["global", "local"], 1]]} if kind == "gpt_neo" else {}
    config = CONFIG_MAPPING[kind](vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **types)
    with pytest.raises(
        StageFailure, match="cannot be trained on packed rows: it computes attention itself"
    ) as caught:
        measure(config, Method.model_validate({"type": "full"}), "s3://m/", ModelKind(labels))
    assert caught.value.reason == Reason.INVALID_MODEL


@pytest.mark.parametrize("kind", ["biogpt", "gpt2", "opt", "mamba"])
def test_models_without_one_of_the_marks_of_attention_are_not_refused_early(kind):
    config = CONFIG_MAPPING[kind](vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    assert measure(config, Method.model_validate({"type": "full"}), "s3://m/").layers == 2


@pytest.mark.parametrize("error", [ImportError("requires timm"), AssertionError("is_decoder=True")])
def test_a_model_that_cannot_be_built_is_refused(error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "__init__", fail)
    with pytest.raises(StageFailure, match=f"no causal language model can be built from config.json: {error}"):
        shape_of("llama")


def test_a_configuration_that_says_no_number_of_layers_is_refused():
    with pytest.raises(StageFailure, match=r"config\.json says no num_hidden_layers") as caught:
        measure(CONFIG_MAPPING["blt"](), Method.model_validate({"type": "full"}), "s3://m/")
    assert caught.value.reason == Reason.INVALID_MODEL


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hidden_size": "x"}, "field 'hidden_size': TypeError: Field 'hidden_size' expected int"),
        ({"hidden_size": 16, "num_attention_heads": 3}, "The hidden size (16) is not a multiple of"),
        ({"rope_parameters": 5}, "Field 'rope_parameters' with value 5"),
    ],
)
def test_settings_that_no_model_has_are_refused(tmp_path, settings, problem):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **settings}))
    with pytest.raises(StageFailure, match=re.escape(problem)) as caught:
        read_config(tmp_path, "s3://m/")
    assert caught.value.reason == Reason.INVALID_MODEL
