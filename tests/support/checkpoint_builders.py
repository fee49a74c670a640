"""Builders of checkpoint records with defaults."""

from typing import Any

from finetune_api.run import Commit, FileEntry


def commit(step: int = 1, *entries: FileEntry, **others: Any) -> Commit:
    """Return a commit of one rank, with other fields by their names in Python."""
    fields = {
        "writer": "a1-x",
        "attempt": 1,
        "step": step,
        "world_size": 1,
        "zero_stage": 0,
        "consumed_sequences": 0,
        "time": "2026-01-01T00:00:00Z",
        "config_digest": "c",
        "files": entries,
    }
    return Commit.model_validate(fields | others)
