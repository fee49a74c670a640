"""Ours: the way from a file to the token cache that the prepare stage takes, all but S3 and the model."""

from pathlib import Path
from typing import Any

from data_bench.task import MAX_LENGTH, Task
from finetune_api.spec import Data
from finetune_trainer.data.cache import SPLITS, TokenCache
from finetune_trainer.prepare.block_encoder import Rules
from finetune_trainer.prepare.blocks import cut
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.pool import encoding, in_order
from finetune_trainer.prepare.sources import Source

SOURCE = "s3://benchmark/rows.jsonl"


def encode(task: Task) -> dict[str, Any]:
    """Read, check, split, encode, leave out exact duplicates, write; return what there is then."""
    data = Data.model_validate({"train": [{"uri": SOURCE}], "deduplicate": "exact", "maxLength": MAX_LENGTH})
    rules = Rules(Path(task.tokenizer), "messages", data, MAX_LENGTH)
    blocks = cut(Path(task.rows), SOURCE, Source(0, "train", SOURCE))
    with CacheBuilder(Path(task.folder) / "prepared", form="messages", labels=None, data=data) as builder:
        with encoding(rules, task.processes) as submit:
            for made in in_order(submit, blocks):
                builder.add(made)
        builder.choose()
    builder.problems.raise_if_any(builder.counts.read)
    return {
        "read": builder.counts.read,
        "rows": sum(writer.rows for writer in builder.writers.values()),
        "tokens": sum(writer.tokens for writer in builder.writers.values()),
        "duplicates": builder.selection.duplicates,
        "too_long": sum(builder.counts.too_long.values()),
    }


def encoded(task: Task, count: int) -> dict[int, tuple[list[int], list[int]]]:
    """Return tokens and flags of the first rows of each split by the number of their line."""
    from finetune_trainer.data.places import Places

    found = {}
    for split in SPLITS:
        folder = Path(task.folder) / "prepared/cache"
        cache, places = TokenCache.open(folder, split), Places.open(folder, split)
        for row in range(min(count, len(cache))):
            ids, flags = cache.row(row)
            found[int(places.rows[row, 1])] = (ids.tolist(), flags.tolist())
    return found
