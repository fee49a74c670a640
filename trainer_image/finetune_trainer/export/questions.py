"""The test rows as questions: what the model is given, where its answer ends, and what the row answers.

The tokens come from the token cache, so a model is asked exactly as it was trained: everything before the last
supervised span is the prompt, and the special token at the end of that span, if there is one, ends an answer.
"""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune_trainer.data.cache import TokenCache

_ENDS = 100
"""Rows whose last token is looked at."""


@dataclass(frozen=True)
class Question:
    """One test row."""

    prompt: list[int]
    """Tokens that the model is given."""
    columns: dict[str, Any]
    """The row as it was read."""

    def record(self, form: str, *, base: str, tuned: str) -> dict[str, Any]:
        """Return the line of predictions.jsonl: further columns, prompt, reference, and both answers.

        `form` is the format that the row was read in: columns of another one are further columns.
        """
        row = dict(self.columns)
        if form == "messages":
            turns = row.pop("messages")
            prompt, reference = turns[:-1], _said(turns[-1])
        else:
            prompt, reference = row.pop("prompt"), row.pop("completion")
        return line_of(row, {"prompt": prompt, "reference": reference, "base": base, "tuned": tuned})


def line_of(row: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Return a line of predictions.jsonl: what is `said`, and the further columns of its row.

    A column that is called as something that is said, as `base` is, has `row_` before its name.
    """
    line: dict[str, Any] = {}
    for name, value in row.items():
        free = name
        while free in said or (free != name and free in row):
            free = f"row_{free}"
        line[free] = value
    return {**line, **said}


def _said(turn: dict[str, Any]) -> str:
    """Return the text of an assistant turn and its calls of tools, each as JSON in a line."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", [])]
    return "\n".join([*filter(None, [turn["content"]]), *calls])


def read_questions(cache: TokenCache, test_rows: Path, count: int) -> list[Question]:
    """Return the first rows of the test split."""
    with test_rows.open(encoding="utf-8", errors="surrogatepass") as file:
        lines = list(islice(file, count))
    return [Question(prompt_of(cache, index), json.loads(line)) for index, line in enumerate(lines)]


def prompt_of(cache: TokenCache, row: int) -> list[int]:
    """Return the tokens before the last answer of a row."""
    ids, flags = cache.row(row)
    last = int(np.flatnonzero(flags)[-1])
    before = np.flatnonzero(flags[:last] == 0)
    return [int(token) for token in ids[: int(before[-1]) + 1]]


def turn_end(cache: TokenCache, special: set[int]) -> set[int]:
    """Return the token that ends the answers of a split, if it is a special one.

    Of several rows, since an answer that was cut to fit ends in any token.
    """
    rows = [cache.row(index) for index in range(min(len(cache), _ENDS))]
    ends = Counter(int(ids[np.flatnonzero(flags)[-1]]) for ids, flags in rows)
    return set([token for token, _ in ends.most_common() if token in special][:1])
