"""`predictions.jsonl`: the first test rows, each with what the row says and what the models said of it."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.prepared import PreparedFiles
from finetune_trainer.export.fresh import Reply
from finetune_trainer.export.questions import line_of, read_questions


def write_predictions(prepared: PreparedFiles, reply: Reply, path: Path) -> None:
    """Write a line for each row that was asked about."""
    lines = _labels(prepared, reply) if reply.predictions else _answers(prepared, reply)
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _answers(prepared: PreparedFiles, reply: Reply) -> Iterator[dict[str, Any]]:
    test = TokenCache.open(prepared.cache, "test")
    questions = read_questions(test, prepared.test_rows, len(reply.tuned_answers))
    for question, base, tuned in zip(questions, reply.base_answers, reply.tuned_answers, strict=True):
        yield question.record(prepared.record.data.format, base=base, tuned=tuned)


def _labels(prepared: PreparedFiles, reply: Reply) -> Iterator[dict[str, Any]]:
    with prepared.test_rows.open(encoding="utf-8", errors="surrogatepass") as file:
        for line, found in zip(islice(file, len(reply.predictions)), reply.predictions, strict=True):
            row = json.loads(line)
            reference = row.pop("label")
            said = {"reference": reference, "tuned": found.label, "probability": found.probability}
            yield line_of(row, said)
