"""Checkpoints in S3: written beside the training, committed at once or not at all, found again newest first.

Every rank hands its finished local folder to a `CheckpointWriter`; a process of its own uploads it. Rank 0's
process waits for the files of all ranks and puts the commit, the only thing that makes a checkpoint exist
(`finetune_api.run` has the layout). A save that fails is counted and told, and never stops the training.
"""

from finetune_trainer.checkpoint.commit import add_score
from finetune_trainer.checkpoint.discover import checkpoint_ref, fetch_commit, find_commit, read_commits
from finetune_trainer.checkpoint.records import CommitMeta, Committed, WriterSettings
from finetune_trainer.checkpoint.writer import CheckpointWriter

__all__ = [
    "CheckpointWriter",
    "CommitMeta",
    "Committed",
    "WriterSettings",
    "add_score",
    "checkpoint_ref",
    "fetch_commit",
    "find_commit",
    "read_commits",
]
