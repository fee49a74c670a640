"""What rank 0 tells of the run: log lines, the metrics series, progress to the operator, a bar on a terminal."""

import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from finetune_api.stage import ProgressSample, TerminationMessage
from finetune_api.status import CheckpointRef, Plan, Progress, Validation
from finetune_trainer import log
from finetune_trainer.data.schedule import Schedule
from finetune_trainer.progress import INTERVAL_SECONDS, ProgressPoster
from finetune_trainer.train.series import MetricsSeries

_WINDOW = 20
"""Steps over which speed is averaged."""


class Reporter:
    """Keeps the progress and tells it; made on rank 0 alone."""

    def __init__(
        self, schedule: Schedule, plan: Plan, *, attempt: int, poster: ProgressPoster, series: MetricsSeries
    ) -> None:
        self._schedule = schedule
        self._plan = plan
        self._attempt = attempt
        self._poster = poster
        self._series = series
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=_WINDOW + 1)
        self._tokens = 0
        self._fields: dict[str, Any] = {}
        self._bar: Any = None
        self._checkpoints: dict[str, CheckpointRef | None] = {}
        self._lock = threading.Lock()
        """Between the run and the watchdog's thread."""
        self._newest: ProgressSample | None = None
        self._told_at = 0.0

    def begin(
        self, done: int, eval_loss: float | None, last: CheckpointRef | None, best: CheckpointRef | None
    ) -> None:
        """Start the clock after `done` steps; once more when the work before the first step has taken its time."""
        self._fields = {"step": done, "eval_loss": _rounded(eval_loss)}
        self._fields["best_eval_loss"] = _rounded(best.eval_loss) if best else None
        self._checkpoints = {"last_checkpoint": last, "best_checkpoint": best}
        self._marks.clear()
        self._marks.append((time.monotonic(), done, 0))
        if self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(total=self._schedule.total_steps, initial=done, unit="step")
        self._post(urgent=True)

    def step(
        self,
        done: int,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens: int,
        waited: float,
        median_seconds: float | None,
    ) -> None:
        """Tell a step: its mean loss per supervised token, its tokens over all processes, its wait for data."""
        self._tokens += tokens
        self._marks.append((time.monotonic(), done, self._tokens))
        speed = speed_of(list(self._marks))
        self._fields |= {
            "step": done,
            "loss": _rounded(loss),
            "learning_rate": learning_rate,
            "grad_norm": _rounded(grad_norm),
            "tokens_per_second": round(speed.tokens_per_second, 1),
            "median_step_seconds": _rounded(median_seconds),
            "estimated_remaining_seconds": round(speed.seconds_per_step * (self._schedule.total_steps - done)),
        }
        line = {
            "step": done,
            "loss": loss,
            "evalLoss": self._fields["eval_loss"],
            "lr": learning_rate,
            "gradNorm": grad_norm,
            "tokensPerSecond": round(speed.tokens_per_second, 1),
            "dataWaitSeconds": round(waited, 4),
        }
        log.info("step", **line)
        self._series.append(line)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix(loss=f"{loss:.4f}")
        self._post(urgent=False)

    def evaluation(self, done: int, found: Validation, best: Validation) -> None:
        """Tell the validation scores after `done` steps, and those of the best checkpoint."""
        self._fields |= {name: _rounded(getattr(found, name)) for name in Validation.model_fields}
        self._fields["best_eval_loss"] = _rounded(best.eval_loss)
        line = {"step": done, **found.model_dump(by_alias=True, exclude_none=True), "bestEvalLoss": best.eval_loss}
        log.info("evaluation", **line)
        self._series.append(line)
        self._post(urgent=True)

    def stopped_early(self, done: int) -> None:
        """Tell that training ends after `done` steps because the validation loss falls no more."""
        self._fields |= {"step": done, "stopped_early": True, "estimated_remaining_seconds": 0}
        log.info("stopped-early", step=done, totalSteps=self._schedule.total_steps)
        self._post(urgent=True)

    def commits(self, last: CheckpointRef | None, best: CheckpointRef | None) -> None:
        """Tell new commits."""
        self._checkpoints = {"last_checkpoint": last, "best_checkpoint": best}
        self._series.upload()
        self._post(urgent=True)

    def heartbeat(self) -> None:
        """Tell that the run lives, unless something was told just now; any thread may call it."""
        with self._lock:
            if self._newest is None or time.monotonic() - self._told_at < INTERVAL_SECONDS:
                return
            progress = self._newest.progress.model_copy(update={"last_update_time": datetime.now(UTC)})
            self._hand_over(self._newest.model_copy(update={"progress": progress}), urgent=False)

    def reached(self, message: TerminationMessage) -> TerminationMessage:
        """Return a last word with what the run had reached; any thread may call it."""
        newest = self._newest
        if newest is None:
            return message
        parts = ("plan", "progress", "last_checkpoint", "best_checkpoint")
        return message.model_copy(update={part: getattr(newest, part) for part in parts})

    def close(self) -> None:
        """Tell the rest and stop."""
        if self._bar is not None:
            self._bar.close()
        self._series.close()
        self._poster.close()

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        done, total = self._fields.get("step", 0), self._schedule.total_steps
        remaining = self._fields.get("estimated_remaining_seconds")
        return Progress(
            total_steps=total,
            epoch=round(self._schedule.epoch(done), 3),
            percent=100 * done // total,
            eta=None if remaining is None else duration(remaining),
            last_update_time=datetime.now(UTC),
            **self._fields,
        )

    def _post(self, *, urgent: bool) -> None:
        sample = ProgressSample(attempt=self._attempt, plan=self._plan, progress=self.progress, **self._checkpoints)
        with self._lock:
            self._hand_over(sample, urgent=urgent)

    def _hand_over(self, sample: ProgressSample, *, urgent: bool) -> None:
        self._newest = sample
        self._told_at = time.monotonic()
        self._poster.post(sample, urgent=urgent)


class Speed:
    """Speed over the last steps."""

    def __init__(self, seconds_per_step: float, tokens_per_second: float) -> None:
        self.seconds_per_step = seconds_per_step
        self.tokens_per_second = tokens_per_second


def speed_of(marks: list[tuple[float, int, int]]) -> Speed:
    """Return the speed between the first and the last mark (time in s, steps done, tokens read)."""
    (start, first, before), (end, last, after) = marks[0], marks[-1]
    seconds = max(end - start, 1e-9)
    return Speed(seconds / max(1, last - first), (after - before) / seconds)


def duration(seconds: int) -> str:
    """Return a duration for people: 45s, 12m30s, 1h05m, 3d04h."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
