"""Models of known shapes with random weights: what they are, and how much they compute.

Sizes as in the models' own config.json (https://huggingface.co/meta-llama/Meta-Llama-3-8B, Llama-3.2-1B,
https://huggingface.co/Qwen/Qwen2.5-7B).
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

LLAMA: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "attention_bias": False, "rms_norm_eps": 1e-5}


def config_of(name: str) -> PreTrainedConfig:
    """Return the configuration of a shape. Raises KeyError."""
    return _CONFIGS[name]()


_CONFIGS = {
    "llama-3-8b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        **LLAMA,
    ),
    "qwen2.5-7b": lambda: Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "llama-3.2-1b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
        **LLAMA,
    ),
    "tiny": lambda: LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        **LLAMA,
    ),
}
SHAPES = tuple(_CONFIGS)


def matrices(config: PreTrainedConfig) -> tuple[Counter[tuple[int, int]], tuple[int, int]]:
    """Return how often the body has a linear layer of (outputs, inputs), and the size of the head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return Counter((one.out_features, one.in_features) for one in linear), (head.out_features, head.in_features)


def lora_flops(config: PreTrainedConfig, documents: Iterable[int], supervised: int) -> float:
    """Return the floating-point operations that training of adapters cannot do without, the adapters' own left out.

    Twice two per weight and token (forward, and the gradient of the inputs; the weights are frozen), of the head for
    supervised tokens alone; causal attention in its documents, three times two products of half the matrix.
    """
    lengths = list(documents)
    body, (outputs, inputs) = matrices(config)
    weights = sum(count * rows * columns for (rows, columns), count in body.items())
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    attention = config.num_hidden_layers * width * 6 * sum(length * length for length in lengths)
    return float(4 * weights * sum(lengths) + 4 * outputs * inputs * supervised + attention)
