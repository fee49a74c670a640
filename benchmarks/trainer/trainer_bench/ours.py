"""The contender `ours`: the product's own engine and loop on prepared rows, with nothing left out but S3.

Its plan is the one that the prepare stage makes. Commits are written to disk and thrown away, after the last turn.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from finetune_api.run import Prepared
from finetune_api.stage import StageInput
from finetune_trainer.checkpoint import CheckpointWriter
from finetune_trainer.data.settings import settings_of
from finetune_trainer.objectives import objective_of
from finetune_trainer.prepare.model_shape import measure, read_config
from finetune_trainer.prepare.plan import Facts, resolve
from finetune_trainer.progress import ProgressPoster
from finetune_trainer.storage import Store
from finetune_trainer.train import start
from finetune_trainer.train.devices import Devices
from finetune_trainer.train.loop import Loop
from finetune_trainer.train.processes import join
from finetune_trainer.train.report import Reporter
from finetune_trainer.train.run import Run, RunData
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.series import MetricsSeries
from finetune_trainer.train.state import RunState
from finetune_trainer.train.stopping import StopSignal
from finetune_trainer.train.watchdog import Watchdog
from trainer_bench.heldout import held_out_loss
from trainer_bench.task import ALPHA, MAX_GRAD_NORM, RANK, SEED, Task
from trainer_bench.turns import Turns

URI = "s3://bench/"


class DiscardingWriter:
    """Stands in for the checkpoint writer: nobody needs the commits."""

    last_error = ""
    busy = False
    signs = 0

    def submit(self, step: int, directory: Path, meta: Any) -> bool:
        """Throw a commit away."""
        shutil.rmtree(directory)
        return True

    def poll(self) -> list[Any]:
        """Return no commits."""
        return []

    def drain(self, timeout: float) -> bool:
        """Return at once: no upload is in flight."""
        return True


class LoopReporter(Reporter):
    """The product's reporter, which posts to nobody and uploads nothing."""

    def __init__(self, run: Run, task: Task) -> None:
        series = MetricsSeries(task.scratch.metrics, cast(Store, None), run.layout.metrics("bench"))
        devices, poster = Devices.of(run.process, run.plan.precision), ProgressPoster(None)
        super().__init__(run.data.schedule, run.plan, attempt=1, poster=poster, series=series, devices=devices)


class TurnReporter(LoopReporter):
    """Takes turns at the steps where a pass over the rows ends."""

    def __init__(self, run: Run, task: Task, turns: Turns) -> None:
        super().__init__(run, task)
        self._task = task
        self._turns = turns
        self.losses: list[float] = []

    def begin(self, done: int, *others: Any) -> None:
        """Wait for the first turn."""
        super().begin(done, *others)
        self._turns.begin()

    def step(self, done: int, *, loss: float, **values: Any) -> None:
        """Tell a step; end a turn with the last step of a pass."""
        super().step(done, loss=loss, **values)
        self.losses.append(loss)
        if done % self._task.steps == 0:
            self._pass_over()

    def _pass_over(self) -> None:
        self._turns.next()


def main(task: Task, turns: Turns) -> None:
    """Train."""
    run = build(task)
    reporter = TurnReporter(run, task, turns)
    train(run, task, reporter)
    model = run.engine.module.transformer
    model.set_attn_implementation("sdpa")
    turns.finish(losses=reporter.losses, held_out_loss=held_out_loss(model, task), plan=run.plan.to_wire())


def train(run: Run, task: Task, reporter: Reporter) -> None:
    """Run the loop to its end, watched as in a pod."""
    writer = cast(CheckpointWriter, DiscardingWriter())
    saver = Saver(writer, run.engine, run.method, run.process, task.scratch.staged / task.method)
    with run.watchdog:
        Loop(run, saver, reporter, RunState()).train()


def build(task: Task) -> Run:
    """Return the run of a task as a training process builds it."""
    job = StageInput.model_validate(
        {"name": "bench", "namespace": "bench", "uid": "bench", "attempt": 1, "spec": _spec(task)}
    )
    process = join(task.device, timedelta(minutes=5))
    watchdog = Watchdog(process.rank, Path("/dev/null"))
    return start.build(job, process, _prepared(job, task), task.scratch, watchdog, StopSignal())


def _spec(task: Task) -> dict[str, Any]:
    lora = {"lora": {"rank": RANK, "alpha": ALPHA, "dropout": 0.0}}
    settings = {"full": {}, "freeze": {"freeze": {"trainableLayers": 2}}}
    return {
        "model": {"uri": URI},
        "method": {"type": task.method, **settings.get(task.method, lora)},
        "data": {"train": [{"uri": URI}], "maxLength": task.max_length},
        "training": {
            "maxSteps": task.steps * task.repeats,
            "globalBatchSize": task.sequences_per_step,
            "learningRate": task.learning_rate,
            "scheduler": "constant",
            "warmup": 0,
            "precision": task.precision,
            "optimizer": {"maxGradNorm": MAX_GRAD_NORM},
            "seed": SEED,
        },
        "distributed": {"device": task.device},
        "evaluation": {"everySteps": 0, "baseline": False},
        "checkpoint": {"uri": URI, "everySteps": 0, "everyMinutes": 0},
        "output": {"uri": URI},
    }


def _prepared(job: StageInput, task: Task) -> Prepared:
    """Return what the prepare stage would have found and planned."""
    spec = job.spec
    data = RunData.open(task.cache, spec, objective_of(spec, None))
    shape = measure(read_config(task.scratch.model, URI), spec.method, URI)
    plan = resolve(spec, Facts(shape, data.schedule, data.batches.longest_sequence, None))
    split: dict[str, Any] = {}
    return Prepared.model_validate(
        {
            "writer": "bench",
            "files": [],
            "modelFiles": [],
            "data": {"format": "messages", "train": split, "validation": split, "test": split, "digest": "0" * 64},
            "plan": plan.to_wire(),
            "settings": settings_of(spec),
            "configDigest": "0" * 64,
        }
    )
