"""Greedy answers of a model to many prompts, in batches of like length."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

BATCH = 32
"""Prompts side by side: each step reads all weights once, whatever their number."""


def answer(
    model: PreTrainedModel | PeftModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
    **options: Any,
) -> list[str]:
    """Return the model's answer to each prompt, without the token that ended it; `options` are those of generate."""
    # peft hands its own configuration on to the wrong model where virtual tokens stand before the prompt.
    generating = model.get_base_model() if isinstance(model, PeftModel) else model
    before = generating.generation_config
    # Replaced, not passed: what a passed configuration leaves open is filled from the model's own (sampling, ...).
    generating.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_tokens) or None,
        pad_token_id=next(iter(stop_tokens), 0),
    )
    answers = [""] * len(prompts)
    try:
        padded = generating is model or not model.active_peft_config.is_prompt_learning
        for chosen in batches_by_length(prompts, padded=padded):
            for index, tokens in zip(chosen, _generate(model, [prompts[at] for at in chosen], options), strict=True):
                kept = _until_stop(tokens, set(stop_tokens))
                answers[index] = tokenizer.decode(kept, skip_special_tokens=True)
    finally:
        generating.generation_config = before
    return answers


def batches_by_length(rows: Sequence[Sequence[int]], *, padded: bool = True) -> Iterator[list[int]]:
    """Yield the rows that stand side by side; those of equal length alone where padding must not be.

    It would stand between virtual tokens and a prompt, and move them apart.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    groups = [order] if padded else [list(group) for _, group in groupby(order, lambda index: len(rows[index]))]
    for group in groups:
        yield from (group[start : start + BATCH] for start in range(0, len(group), BATCH))


def _generate(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
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
