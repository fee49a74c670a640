"""The rows: chats of one question and one answer, whose lengths are spread as those of real chat data are.

Lengths follow a log-normal distribution with sigma 1 (half of the rows hold a fifth of the tokens, a few reach the
limit), taken at evenly spaced quantiles, so that even a few rows have its shape. The text is English prose from
Python's own documentation, cut by tokens: the answer goes on where the question ends, so there is something to learn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_harness.errors import BenchError
from finetune_trainer.data.cache import SPLITS, CacheWriter, TokenCache
from finetune_trainer.data.packing import plan
from trainer_bench.task import MAX_LENGTH, ROWS_PER_STEP, SEED, SEQUENCES_PER_STEP, Task
from trainer_bench.turns import Turns

SIGMA = 1.0
SHORTEST = 24
"""Tokens: the chat template alone takes a dozen."""
FILL = 0.96
"""Share of the packed sequences that the rows fill."""
ANSWER_SHARES = (0.4, 0.6, 0.8)
"""Of a row's text, in turn: the answer, which is what is learned."""
HELD_OUT = 8


@dataclass(frozen=True)
class Shape:
    """What rows look like: tokens at quantiles, and what padding costs."""

    rows: int
    tokens: int
    supervised_tokens: int
    shortest: int
    median: int
    longest: int
    padding_share: float
    """Of the cells of padded batches of eight rows, in the expectation over their order."""


def lengths(rows: int, total: int, limit: int = MAX_LENGTH) -> list[int]:
    """Return lengths of rows that sum up to at most `total` tokens and nearly that. Raises BenchError."""
    if not rows * SHORTEST <= total <= rows * limit:
        raise BenchError(f"{rows} rows cannot have {total} tokens together")
    low, high = 1.0, float(limit)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_quantiles(rows, middle, limit)) <= total else (low, middle)
    return _quantiles(rows, low, limit)


def _quantiles(rows: int, median: float, limit: int) -> list[int]:
    normal = NormalDist(0.0, SIGMA)
    exact = (median * np.exp(normal.inv_cdf((row + 0.5) / rows)) for row in range(rows))
    return [int(min(limit, max(SHORTEST, length))) for length in exact]


def write_rows(task: Task, tokenizer: Any) -> None:
    """Write the encoded rows of a task. Raises BenchError when they do not fill exactly its steps."""
    task.cache.mkdir(parents=True)
    total = int(FILL * task.steps * SEQUENCES_PER_STEP * MAX_LENGTH)
    wanted = lengths(task.rows, total)
    held_out = lengths(HELD_OUT, total * HELD_OUT // task.rows)
    order = np.random.default_rng(SEED).permutation(task.rows)
    prose = cycle(_prose(tokenizer))
    counts: dict[str, Sequence[int]] = {"train": [wanted[row] for row in order], "test": held_out}
    for split in SPLITS:
        with CacheWriter(task.cache, split) as writer:
            for number, length in enumerate(counts.get(split, [])):
                writer.append(*_row(tokenizer, prose, length, ANSWER_SHARES[number % len(ANSWER_SHARES)]))
    packed = len(plan(np.asarray(wanted, np.int64), MAX_LENGTH, seed=SEED, epoch=0, packing=True))
    if packed != task.steps * SEQUENCES_PER_STEP:
        raise BenchError(f"the rows fill {packed} sequences, not the {task.steps * SEQUENCES_PER_STEP} of the steps")


def shape_of(cache: TokenCache) -> Shape:
    """Describe rows."""
    ordered = np.sort(cache.lengths)
    tokens = int(ordered.sum())
    return Shape(
        rows=len(ordered),
        tokens=tokens,
        supervised_tokens=int(cache.supervised_counts.sum()),
        shortest=int(ordered[0]),
        median=int(np.median(ordered)),
        longest=int(ordered[-1]),
        padding_share=round(1 - tokens / padded_cells(ordered), 3),
    )


def padded_cells(ordered: NDArray[np.int64]) -> float:
    """Return the expected cells of all batches of eight rows in a random order, each as long as its longest row."""
    size = min(ROWS_PER_STEP, len(ordered))
    random = np.random.default_rng(0)
    longest = [np.sort(random.choice(ordered, size, replace=False))[-1] for _ in range(4000)]
    return float(np.mean(longest)) * len(ordered)


def main(task: Task, turns: Turns) -> None:
    """Write the rows of a task and say what they look like."""
    from transformers import AutoTokenizer

    turns.begin()
    write_rows(task, AutoTokenizer.from_pretrained(task.scratch.model))
    turns.finish(**asdict(shape_of(TokenCache.open(task.cache, "train"))))


def _prose(tokenizer: Any) -> list[int]:
    """Return the tokens of Python's documentation of its own language."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _row(tokenizer: Any, prose: Iterator[int], length: int, share: float) -> tuple[list[int], list[bool]]:
    """Return tokens of a chat of so many tokens, and which of them are learned."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    opening, between = encode("<|im_start|>user\n"), encode("<|im_end|>\n<|im_start|>assistant\n")
    closing = encode("<|im_end|>")
    room = length - len(opening) - len(between) - len(closing)
    answer = max(1, round(share * room))
    asked = [*opening, *(next(prose) for _ in range(room - answer)), *between]
    answered = [*(next(prose) for _ in range(answer)), *closing]
    return asked + answered, [False] * len(asked) + [True] * len(answered)


def rows_of(directory: Path, split: Any) -> list[tuple[list[int], list[bool]]]:
    """Return tokens and flags of the rows of a split."""
    cache = TokenCache.open(directory, split)
    pairs = (cache.row(index) for index in range(len(cache)))
    return [(ids.astype(np.int64).tolist(), flags.astype(bool).tolist()) for ids, flags in pairs]
