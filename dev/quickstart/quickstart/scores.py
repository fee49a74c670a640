"""Scores of the answers: the share that holds every key word of the right answer."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One test question with both models' answers; `keywords` are what a right answer must hold."""

    question: str
    keywords: Sequence[str]
    base: str
    tuned: str


def parse_answers(predictions: str) -> list[Answer]:
    """Read `predictions.jsonl`."""
    return [_parse_row(json.loads(line)) for line in predictions.splitlines() if line.strip()]


def _parse_row(row: dict[str, Any]) -> Answer:
    question = next(turn["content"] for turn in reversed(row["prompt"]) if turn["role"] == "user")
    return Answer(question, row["keywords"], row["base"], row["tuned"])


def is_right(answer: str, keywords: Iterable[str]) -> bool:
    """Whether an answer holds every key word, whatever its case."""
    folded = answer.casefold()
    return all(word.casefold() in folded for word in keywords)


def accuracy(answers: Sequence[Answer], model: str) -> float:
    """Share of right answers of `base` or `tuned`, 0 to 1."""
    return sum(is_right(getattr(answer, model), answer.keywords) for answer in answers) / len(answers)


def pick_samples(answers: Sequence[Answer], count: int = 5) -> list[Answer]:
    """Return answers spread evenly over the test rows: not the best ones."""
    stride = max(1, len(answers) // count)
    return list(answers[::stride][:count])
