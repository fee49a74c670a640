"""What a model's shape says beside plain counts."""

import pytest
from transformers import LlamaConfig

from finetune_api.spec import Method
from finetune_trainer.prepare.model_shape import measure


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
