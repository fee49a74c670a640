"""Tiny random mixtures of experts, the same at every call; their tokenizer is the tiny Llama's."""

from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
    "num_experts_per_tok": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 32},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
}
"""Two sets of names in files, and one kind whose experts peft does not know."""


def write_tiny_mixture(directory: Path, kind: str) -> None:
    """Write a random mixture of four experts in float32 safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **TINY, **KINDS[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
