"""What is fixed for a whole run on one process: the job, the data, the model's engine."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.run import Commit, RunLayout
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_api.status import Plan
from finetune_trainer.checkpoint import read_commits
from finetune_trainer.data.batches import TrainingBatches, batches_of
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.data.schedule import Schedule, schedule_of
from finetune_trainer.methods import Method
from finetune_trainer.model.attention import Backend
from finetune_trainer.objectives import Objective
from finetune_trainer.storage import Store
from finetune_trainer.train.engine import Engine
from finetune_trainer.train.lr import LearningRate
from finetune_trainer.train.processes import Process
from finetune_trainer.train.stopping import StopSignal
from finetune_trainer.train.watchdog import Watchdog


@dataclass(frozen=True)
class RunData:
    """The prepared data of a run."""

    train: TokenCache
    validation: TokenCache
    test: TokenCache
    places: Places
    """Of the training rows."""
    batches: TrainingBatches
    schedule: Schedule

    @classmethod
    def open(cls, directory: Path, spec: FineTuneJobSpec, objective: Objective) -> "RunData":
        """Open the token cache in a folder."""
        train = TokenCache.open(directory, "train")
        batches = batches_of(spec, train, objective.row_weights(train))
        steps = schedule_of(spec.training, batches.num_sequences)
        validation, test = TokenCache.open(directory, "validation"), TokenCache.open(directory, "test")
        return cls(train, validation, test, Places.open(directory, "train"), batches, steps)


@dataclass(frozen=True)
class Run:
    """A run as one process sees it."""

    job: StageInput
    plan: Plan
    process: Process
    layout: RunLayout
    data: RunData
    method: Method
    objective: Objective
    engine: Engine
    backend: Backend
    config_digest: str
    watchdog: Watchdog
    stop: StopSignal

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job's spec."""
        return self.job.spec

    @property
    def learning_rate(self) -> LearningRate:
        """Learning rate by step."""
        return LearningRate.of(self.spec.training, self.data.schedule.total_steps)

    @property
    def evaluation_tokens(self) -> int:
        """Most tokens of an evaluation batch, though a longer row stands alone: what a training batch may hold."""
        return self.plan.micro_batch_size * self.data.batches.longest_sequence


def commits_of(run: Run, store: Store) -> list[Commit]:
    """Return the commits of this run's configuration, oldest first."""
    return [commit for commit in read_commits(store, run.layout) if commit.config_digest == run.config_digest]
