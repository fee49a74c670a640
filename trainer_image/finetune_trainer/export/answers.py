"""Greedy answers of a model to many prompts, in batches of like length."""

from collections.abc import Mapping, Sequence
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
    **options: Any,
) -> list[str]:
    """Return the model's answer to each prompt, without the token that ended it; `options` are those of generate."""
    before = model.generation_config
    # Replaced, not passed: what a passed configuration leaves open is filled from the model's own (sampling, ...).
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_tokens) or None,
        pad_token_id=next(iter(stop_tokens), 0),
    )
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    try:
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            for index, tokens in zip(chosen, _generate(model, [prompts[at] for at in chosen], options), strict=True):
                kept = _until_stop(tokens, set(stop_tokens))
                answers[index] = tokenizer.decode(kept, skip_special_tokens=True)
    finally:
        model.generation_config = before
    return answers


def _generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> list[list[int]]:
    """Return the tokens that follow prompts side by side: padded at the left, where the mask hides the padding."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # No inference mode: weights that are put together in it could not be trained on afterwards (ZeRO stage 3).
    with torch.no_grad():
        output = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **options)
    answered: list[list[int]] = output[:, width:].tolist()
    return answered


def _until_stop(tokens: list[int], stop_tokens: set[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in stop_tokens), len(tokens))
    return tokens[:end]
