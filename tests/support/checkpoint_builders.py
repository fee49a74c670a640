"""Builders of checkpoint records with defaults."""

from finetune_api.run import Commit, FileEntry


def commit(step: int = 1, *entries: FileEntry, eval_loss: float | None = None) -> Commit:
    """Return a commit of one rank."""
    return Commit.model_validate(
        {
            "writer": "a1-x",
            "attempt": 1,
            "step": step,
            "worldSize": 1,
            "zeroStage": 0,
            "consumedSequences": 0,
            "evalLoss": eval_loss,
            "time": "2026-01-01T00:00:00Z",
            "configDigest": "c",
            "files": [one.model_dump(by_alias=True) for one in entries],
        }
    )
