"""Rows of small jobs, and what the prepare stage made of them."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from finetune_api.run import RunLayout
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.prepared import fetch_prepared
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.stage import run

GIB = 1024**3
NO_SPLIT = {"validation": 0, "test": 0}


def row(number: int, **columns) -> dict:
    return {
        "messages": [
            {"role": "user", "content": f"How do I reset password {number}?"},
            {"role": "assistant", "content": f"Open page {number}."},
        ],
        **columns,
    }


def rows(count: int, start: int = 0) -> list[dict]:
    return [row(number, id=number) for number in range(start, start + count)]


def fetched(s3_job, job, directory: Path):
    return fetch_prepared(s3_job.store, RunLayout(job.spec.checkpoint.uri, job.run_id), directory)


def texts(prepared, split: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer)
    cache = TokenCache.open(prepared.cache, split)
    return [tokenizer.decode(cache.row(index)[0].tolist()) for index in range(len(cache))]


def another(job, uid: str):
    """Return the same job, created anew."""
    return job.model_copy(update={"uid": uid, "run_id": uid})


def base_data(s3_job) -> dict:
    return {"train": [{"uri": s3_job.uri("rows/train.jsonl")}], "maxLength": 256}


def fails(s3_job, job) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        run(job, s3_job.store)
    return caught.value
