"""The loop with its real saver over a writer whose uploads end when a test says so; no model and no S3.

What a step computes is left out, its collectives are not: several processes can play the same script together.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

from finetune_api.run import RunLayout
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import CheckpointRef, Scores, Validation
from finetune_loopback.jobs import minimal_job
from finetune_trainer.checkpoint import CommitMeta, Committed
from finetune_trainer.errors import StageFailure
from finetune_trainer.train import loop, saver
from finetune_trainer.train.evaluation import Evaluation
from finetune_trainer.train.processes import Process
from finetune_trainer.train.state import RunState
from finetune_trainer.train.step import Step
from finetune_trainer.train.stopping import StopSignal
from finetune_trainer.train.watchdog import Watchdog

LAYOUT = RunLayout("s3://runs/job/", "uid")


@dataclass(frozen=True)
class Script:
    """What happens: by step, for one process."""

    losses: Sequence[float]
    """Validation loss after each step; there are as many steps."""
    looks: Mapping[int, int] = field(default_factory=dict)
    """Upload of a step: how often the saver waits for it in vain; the others end as soon as they begin."""
    fails: Sequence[int] = ()
    """Uploads that end badly."""
    ends_after: Mapping[int, int] = field(default_factory=dict)
    """Upload of a step: after which step it ends, if nobody waits for it before."""
    stop_at_look: int = 0
    """SIGTERM arrives while the saver waits so often in vain, counted over all uploads; 0: never."""
    save_seconds: float = 0.0
    """What a save takes before its upload."""
    spec: Mapping[str, Any] = field(default_factory=dict)


class HeldWriter:
    """Stands in for the checkpoint writer of one process."""

    last_error = ""
    signs = 0

    def __init__(self, script: Script, rank: int, stop: StopSignal) -> None:
        self.submitted: dict[int, CommitMeta] = {}
        self.committed: dict[int, float | None] = {}
        """By step, the validation loss that the commit names; of rank 0."""
        self.waits = 0
        """How often something in flight was waited for."""
        self.begun: list[float] = []
        self.handed: list[float] = []
        """Times at which steps began and saves were handed in, by the clock of the machine."""
        self._script = script
        self._rank = rank
        self._stop = stop
        self._in_flight: int | None = None
        self._looks = 0
        self._news: list[Committed] = []

    @property
    def busy(self) -> bool:
        return self._in_flight is not None

    def submit(self, step: int, directory: Path, meta: CommitMeta) -> bool:
        assert not self.busy
        self.handed.append(time.monotonic())
        self.submitted[step] = meta
        self._in_flight, self._looks = step, self._script.looks.get(step, 0)
        if not self._looks:
            self._end()
        return True

    def drain(self, timeout: float) -> bool:
        if self.busy:
            self.waits += 1
            self._looks -= 1
            self._stop.requested |= self.waits == self._script.stop_at_look
        if self.busy and self._looks <= 0:
            self._end()
        return not self.busy

    def poll(self) -> list[Committed]:
        news, self._news = self._news, []
        return news

    def begin(self, done: int) -> None:
        """A step begins after so many."""
        self.begun.append(time.monotonic())
        if self._in_flight is not None and self._script.ends_after.get(self._in_flight) == done:
            self._end()

    def _end(self) -> None:
        step, self._in_flight = self._in_flight, None
        assert step is not None
        if step in self._script.fails:
            self.last_error = f"the upload of step {step} failed"
        elif self._rank == 0:
            scores = self.submitted[step].validation
            self.committed[step] = scores.eval_loss
            self._news.append(Committed(step, _ref(step, scores)))


class Told:
    """Stands in for the reporter."""

    def __init__(self) -> None:
        self.best: dict[int, float | None] = {}
        """By step, the validation loss that is told to be that of the best checkpoint."""

    def begin(self, *_: Any) -> None:
        pass

    def step(self, *_: Any, **__: Any) -> None:
        pass

    def stopped_early(self, *_: Any) -> None:
        pass

    def commits(self, *_: Any) -> None:
        pass

    def evaluation(self, done: int, found: Validation, best: Validation) -> None:
        self.best[done] = best.eval_loss


@dataclass(frozen=True)
class Played:
    """How a script went in one process."""

    saved: list[int]
    """Steps that were handed to the uploader."""
    committed: dict[int, float | None]
    best: dict[int, float | None]
    best_commit: int | None
    waits: int
    begun: list[float]
    handed: list[float]
    """Times at which steps began and saves were handed in."""
    failure: StageFailure | None


def play(script: Script, scratch: Path, *, rank: int = 0, world_size: int = 1) -> Played:
    """Train by a script; every process of the group must call it."""
    stop = StopSignal()
    writer, told = HeldWriter(script, rank, stop), Told() if rank == 0 else None
    run = _run(script, stop, rank=rank, world_size=world_size)
    kept = saver.Saver(writer, run.engine, run.method, run.process, scratch)  # type: ignore[arg-type]
    failure: StageFailure | None = None
    with ExitStack() as stack:
        _stand_in(stack, script, writer)
        try:
            loop.Loop(run, kept, told, RunState()).train()  # type: ignore[arg-type]
        except StageFailure as error:
            failure = error
    best_commit = kept.best.step if kept.best else None
    return Played(
        saved=list(writer.submitted),
        committed=writer.committed,
        best=told.best if told else {},
        best_commit=best_commit,
        waits=writer.waits,
        begun=writer.begun,
        handed=writer.handed,
        failure=failure,
    )


def play_together(rank: int, plays: Sequence[Sequence[Script]], scratch: Path) -> None:
    """Be one process of several, in plays that have a script for each; `scratch/<rank>` tells how they went."""
    join(scratch, rank, len(plays[0]))
    played = [play(scripts[rank], scratch, rank=rank, world_size=len(scripts)) for scripts in plays]
    told = [{name: getattr(one, name) for name in ("saved", "committed", "begun", "handed")} for one in played]
    (scratch / f"{rank}").write_text(repr(told))


def join(scratch: Path, rank: int = 0, world_size: int = 1) -> None:
    """Join the processes that meet in a file below `scratch`."""
    store = dist.FileStore(str(scratch / "meeting"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)


def _stand_in(stack: ExitStack, script: Script, writer: HeldWriter) -> None:
    done = 0

    def train_step(run: Any, index: int) -> Step:
        nonlocal done
        writer.begin(index)
        done = index + 1
        return Step(index, weight=1.0, losses=[torch.ones(())], grad_norm=1.0, waited=0.0)

    def evaluate(*_: Any) -> Evaluation:
        return Evaluation(Scores(loss=script.losses[done - 1]), None)

    def save_state(*_: Any) -> None:
        time.sleep(script.save_seconds)

    stack.enter_context(mock.patch.object(loop, "train_step", train_step))
    stack.enter_context(mock.patch.object(loop, "evaluate", evaluate))
    stack.enter_context(mock.patch.object(loop, "count_flops", return_value=None))
    stack.enter_context(mock.patch.object(saver, "save_state", save_state))


def _run(script: Script, stop: StopSignal, *, rank: int, world_size: int) -> Any:
    changes = {"evaluation": {"everySteps": 1}, "checkpoint": {"everyMinutes": 0}, **script.spec}
    ones = np.ones(1, np.int64)
    train = SimpleNamespace(lengths=ones, supervised_counts=ones)
    batches = SimpleNamespace(sequences=lambda *_: [[0]])
    schedule = SimpleNamespace(total_steps=len(script.losses), cursor=lambda done: done)
    return SimpleNamespace(
        spec=FineTuneJobSpec.model_validate(minimal_job(**changes)["spec"]),
        process=Process(rank, rank, world_size, world_size, torch.device("cpu")),
        layout=LAYOUT,
        plan=SimpleNamespace(zero_stage=0),
        engine=SimpleNamespace(module=SimpleNamespace(transformer=None)),
        method=None,
        data=SimpleNamespace(train=train, validation=None, batches=batches, schedule=schedule),
        config_digest="c",
        learning_rate=lambda index: 1e-3,
        watchdog=Watchdog(rank, Path("/dev/null")),
        stop=stop,
    )


def _ref(step: int, scores: Validation) -> CheckpointRef:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return CheckpointRef(uri=LAYOUT.commit(step).uri, step=step, time=time, size_bytes=1, **scores.scores)
