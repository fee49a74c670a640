"""Commits of a run, as the loop sees them: it saves to disk and goes on, the uploader does the rest."""

import time
from collections.abc import Sequence
from pathlib import Path

from finetune_api.run import Commit, RunLayout
from finetune_api.spec.evaluation import BestMetric
from finetune_api.status import CheckpointRef, Validation
from finetune_trainer import log
from finetune_trainer.checkpoint import CheckpointWriter, CommitMeta, checkpoint_ref
from finetune_trainer.methods import Method
from finetune_trainer.train.cadence import best_commit, is_better
from finetune_trainer.train.engine import Engine
from finetune_trainer.train.processes import Process, anywhere
from finetune_trainer.train.state import RunState, save_state


class Saver:
    """Saves a run. All processes call `save` at the same steps; `last` and `best` are known to rank 0 alone."""

    def __init__(
        self,
        writer: CheckpointWriter,
        engine: Engine,
        method: Method,
        process: Process,
        staged: Path,
        metric: BestMetric = "loss",
    ) -> None:
        self._writer = writer
        self._engine = engine
        self._method = method
        self._process = process
        self._staged = staged
        self._metric = metric
        self.saved = 0
        """Steps done when the newest save was made."""
        self._saved_at = time.monotonic()
        self._signs = 0
        self.last: CheckpointRef | None = None
        self.best: CheckpointRef | None = None
        self._newest = Validation()
        """Scores of the newest save."""
        self._has_news = False

    def resume(self, step: int, commits: Sequence[Commit], layout: RunLayout) -> None:
        """Go on from the commit of a step, of those that exist."""
        self.saved = step
        best = best_commit(commits, self._metric)
        self.best = checkpoint_ref(layout, best) if best else None
        self.last = next((checkpoint_ref(layout, commit) for commit in commits if commit.step == step), None)

    @property
    def busy(self) -> bool:
        """Whether this process's upload is in flight."""
        return self._writer.busy

    @property
    def seconds_since_save(self) -> float:
        """Seconds since the newest save, or since the start."""
        return time.monotonic() - self._saved_at

    def save(self, step: int, run: RunState, meta: CommitMeta) -> None:
        """Write the state to disk and hand it to the uploader. No process may be busy."""
        start = time.monotonic()
        directory = self._staged / f"{step:08d}" / f"rank-{self._process.rank}"
        save_state(self._engine, self._method, self._process, run, directory)
        self._writer.submit(step, directory, meta)
        self.saved, self._newest = step, meta.validation
        self._saved_at = time.monotonic()
        log.info("checkpoint-staged", step=step, seconds=round(self._saved_at - start, 3))

    def news(self) -> bool:
        """Return whether there were new commits since the last call."""
        self._take_note()
        had_news, self._has_news = self._has_news, False
        return had_news

    @property
    def standing(self) -> Validation | None:
        """Best scores of what is committed or in flight; known to rank 0 alone. An upload that failed has none."""
        # Asked first: an upload that ends in between is then both, and not neither.
        busy = self.busy
        self._take_note()
        return self._newest if busy and is_better(self._newest, self.best, self._metric) else self.best

    def _take_note(self) -> None:
        for item in self._writer.poll():
            self._has_news, self.last = True, item.ref
            if is_better(item.ref, self.best, self._metric):
                self.best = item.ref

    def drain(self, timeout: float) -> bool:
        """Wait for the uploads of all processes; return whether none is in flight. Every process must call it."""
        return not anywhere(not self._writer.drain(timeout), self._process)

    def moves(self) -> bool:
        """Whether this process's upload got further since the last call, or there is none."""
        before, self._signs = self._signs, self._writer.signs
        return not self.busy or self._signs > before

    @property
    def last_error(self) -> str:
        """Why the last failed save failed."""
        return self._writer.last_error

    def close(self) -> None:
        """End the uploader."""
        self._writer.close()
