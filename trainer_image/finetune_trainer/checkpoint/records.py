"""What passes between a training process and its uploader process."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.run import RunLayout
from finetune_api.spec import S3Storage
from finetune_api.spec.evaluation import BestMetric
from finetune_api.status import CheckpointRef, Validation
from finetune_trainer.storage import PATIENT, RetryBudget

NOT_SCORED = Validation()


@dataclass(frozen=True)
class WriterSettings:
    """What an uploader knows of its run. All ranks of an attempt share one `writer`: that of rank 0's pod."""

    s3: S3Storage
    layout: RunLayout
    writer: str
    rank: int
    world_size: int
    attempt: int
    keep_last: int
    keep_best: int
    best_metric: BestMetric = "loss"
    budget: RetryBudget = PATIENT
    rank_deadline: float = 600
    """Seconds that rank 0's uploader waits for the files of the other ranks."""
    orphan_age: float = 1200
    """Seconds after which what a dead attempt left uncommitted is deleted."""


@dataclass(frozen=True)
class CommitMeta:
    """What a commit says about its checkpoint; rank 0's counts."""

    zero_stage: int
    consumed_sequences: int
    config_digest: str
    validation: Validation = NOT_SCORED
    """Scores at this step, if it was evaluated."""


@dataclass(frozen=True)
class Save:
    """A finished local folder to upload; the uploader deletes it afterwards, whatever happens."""

    step: int
    directory: Path
    meta: CommitMeta


@dataclass(frozen=True)
class Committed:
    """Rank 0: the checkpoint of this step exists."""

    step: int
    ref: CheckpointRef


@dataclass(frozen=True)
class Uploaded:
    """Another rank: its part of this step is in S3."""

    step: int


@dataclass(frozen=True)
class SaveFailed:
    """This step was not saved."""

    step: int
    message: str


Outcome = Committed | Uploaded | SaveFailed
