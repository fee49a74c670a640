"""The labels that a model gives to rows, in padded batches as any program would ask for them."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch.nn.functional import softmax

from finetune_api.base import Record
from finetune_trainer.export.answers import batches_by_length


class Prediction(Record):
    """What a model says of a row."""

    label: str = Field(description="The most probable label.")
    probability: float = Field(description="Its probability.")


def classify(model: Any, rows: Sequence[Sequence[int]], *, pad_token_id: int) -> list[Prediction]:
    """Return the label of each row of tokens, by the names in the model's own configuration."""
    predictions: list[Prediction | None] = [None] * len(rows)
    for chosen in batches_by_length(rows):
        found = _classify_batch(model, [rows[index] for index in chosen], pad_token_id)
        for index, prediction in zip(chosen, found, strict=True):
            predictions[index] = prediction
    return [prediction for prediction in predictions if prediction is not None]


def _classify_batch(model: Any, rows: Sequence[Sequence[int]], pad_token_id: int) -> list[Prediction]:
    ids = torch.full((len(rows), max(map(len, rows))), pad_token_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    with torch.inference_mode():
        probabilities = softmax(model(input_ids=ids, attention_mask=mask).logits.float(), dim=-1)
    names = model.config.id2label
    best = probabilities.max(dim=-1)
    return [
        Prediction(label=names[number], probability=round(probability, 6))
        for probability, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
