"""Greedy answers of a model to many prompts, in batches of like length."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

BATCH = 32
"""Prompts side by side: each step reads all weights once, whatever their number."""


def answer(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
) -> list[str]:
    """Return the model's answer to each prompt, without the token that ended it."""
    # Replaced, not passed: what a passed configuration leaves open is filled from the model's own (sampling, ...).
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_tokens) or None,
        pad_token_id=next(iter(stop_tokens), 0),
    )
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        texts = _answer_batch(model, tokenizer, [prompts[index] for index in chosen], set(stop_tokens))
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
    return answers


def _answer_batch(
    model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Sequence[int]], stop_tokens: set[int]
) -> list[str]:
    """Answer prompts side by side: padded at the left, where the mask hides the padding."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask)
    return [
        tokenizer.decode(_until_stop(row, stop_tokens), skip_special_tokens=True)
        for row in output[:, width:].tolist()
    ]


def _until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]
