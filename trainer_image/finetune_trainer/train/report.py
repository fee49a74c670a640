"""What rank 0 tells of the run: log lines, the metrics series, progress to the operator, a bar on a terminal."""

import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from finetune_api.stage import ProgressSample, TerminationMessage
from finetune_api.status import CheckpointRef, Plan, Progress, Validation
from finetune_trainer import log
from finetune_trainer.data.schedule import Schedule
from finetune_trainer.progress import INTERVAL_SECONDS, ProgressPoster
from finetune_trainer.train.devices import Devices
from finetune_trainer.train.meter import Meter
from finetune_trainer.train.series import MetricsSeries
from finetune_trainer.train.tracking import Tracker


class Reporter:
    """Keeps the progress and tells it; made on rank 0 alone."""

    def __init__(
        self,
        schedule: Schedule,
        plan: Plan,
        *,
        attempt: int,
        poster: ProgressPoster,
        series: MetricsSeries,
        devices: Devices,
        samples: MetricsSeries | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._schedule = schedule
        self._plan = plan
        self._attempt = attempt
        self._poster = poster
        self._series = series
        self._devices = devices
        self._samples = samples
        self._trackers = trackers
        self._meter = Meter()
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
        self._meter.begin(done)
        if self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(total=self._schedule.total_steps, initial=done, unit="step")
        self._post(urgent=True)

    def between_steps(self) -> None:
        """Take note that what was done since the newest step was no step. All steps done by then must be told."""
        self._meter.skip()

    def step(
        self,
        done: int,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        tokens: int,
        flops: float | None,
        waited: float,
        median_seconds: float | None,
    ) -> None:
        """Tell a step: mean loss, tokens and operations over all processes, seconds that this one waited for data.

        The operations are None where they are not known.
        """
        speed = self._meter.step(done, tokens=tokens, flops=flops or 0.0, waited=waited)
        mfu = _rounded(self._devices.mfu(speed.flops_per_second)) if flops else None
        peak_bytes = self._devices.peak_bytes
        self._fields |= {
            "step": done,
            "loss": _rounded(loss),
            "learning_rate": learning_rate,
            "grad_norm": _rounded(grad_norm),
            "tokens_per_second": round(speed.tokens_per_second, 1),
            "mfu": mfu,
            "data_wait_share": _rounded(speed.data_wait_share),
            "peak_bytes_per_device": peak_bytes,
            "median_step_seconds": _rounded(median_seconds),
            "estimated_remaining_seconds": round(self._meter.seconds_left(self._schedule.total_steps - done)),
        }
        line = {
            "step": done,
            "loss": loss,
            "evalLoss": self._fields["eval_loss"],
            "lr": learning_rate,
            "gradNorm": grad_norm,
            "tokensPerSecond": round(speed.tokens_per_second, 1),
            "mfu": mfu,
            "dataWaitSeconds": round(waited, 4),
            "peakBytes": peak_bytes,
        }
        log.info("step", **line)
        self._append(line)
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
        self._append(line)
        self._post(urgent=True)

    def sample(self, done: int, prompt: str, answer: str) -> None:
        """Tell what the model answered to a sample prompt after `done` steps."""
        line = {"step": done, "prompt": prompt, "answer": answer}
        log.info("sample", **line)
        if self._samples is not None:
            self._samples.append(line)

    def stopped_early(self, done: int) -> None:
        """Tell that training ends after `done` steps because the validation loss falls no more."""
        self._fields |= {"step": done, "stopped_early": True, "estimated_remaining_seconds": 0}
        log.info("stopped-early", step=done, totalSteps=self._schedule.total_steps)
        self._post(urgent=True)

    def commits(self, last: CheckpointRef | None, best: CheckpointRef | None) -> None:
        """Tell new commits."""
        self._checkpoints = {"last_checkpoint": last, "best_checkpoint": best}
        for one in (self._series, self._samples, *self._trackers):
            if one is not None:
                one.upload()
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

    def close(self, *, succeeded: bool = False) -> None:
        """Tell the rest and stop; `succeeded`: the training is done."""
        if self._bar is not None:
            self._bar.close()
        for series in (self._series, self._samples):
            if series is not None:
                series.close()
        self._poster.close()
        for tracker in self._trackers:
            tracker.close(succeeded=succeeded)

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

    def _append(self, line: dict[str, Any]) -> None:
        self._series.append(line)
        for tracker in self._trackers:
            tracker.append(line)

    def _post(self, *, urgent: bool) -> None:
        sample = ProgressSample(attempt=self._attempt, plan=self._plan, progress=self.progress, **self._checkpoints)
        with self._lock:
            self._hand_over(sample, urgent=urgent)

    def _hand_over(self, sample: ProgressSample, *, urgent: bool) -> None:
        self._newest = sample
        self._told_at = time.monotonic()
        self._poster.post(sample, urgent=urgent)


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
