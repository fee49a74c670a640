"""The learning rate of every step, as a pure function: a resumed run needs no scheduler state."""

from dataclasses import dataclass
from math import ceil, cos, pi, sqrt
from typing import Literal

from finetune_api.spec import Training


@dataclass(frozen=True)
class LearningRate:
    """A linear warm-up to `peak`, then the course of `scheduler` down to `lowest` at `total_steps`."""

    peak: float
    lowest: float
    scheduler: Literal["linear", "cosine", "constant", "wsd"]
    warmup_steps: int
    decay_steps: int
    total_steps: int

    @classmethod
    def of(cls, training: Training, total_steps: int) -> "LearningRate":
        """Return the learning rate of a run; a warm-up or decay below 1 is a share of its steps."""
        return cls(
            peak=training.learning_rate,
            lowest=training.learning_rate * training.min_learning_rate_ratio,
            scheduler=training.scheduler,
            warmup_steps=_steps(training.warmup, total_steps),
            decay_steps=_steps(training.decay, total_steps),
            total_steps=total_steps,
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0. The first step of the warm-up is not lost at 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        return self.lowest + (self.peak - self.lowest) * self._course(step)

    def _course(self, step: int) -> float:
        """Return 1 at the peak and 0 at the end."""
        match self.scheduler:
            case "constant":
                return 1.0
            case "linear":
                return 1 - self._done(step, since=self.warmup_steps)
            case "cosine":
                return (1 + cos(pi * self._done(step, since=self.warmup_steps))) / 2
            case "wsd":  # falls by the root of what is left (https://arxiv.org/abs/2405.18392)
                return 1 - sqrt(self._done(step, since=max(self.warmup_steps, self.total_steps - self.decay_steps)))

    def _done(self, step: int, *, since: int) -> float:
        """Return the share of the steps from `since` to the end that lie behind."""
        return min(1.0, max(0, step - since) / max(1, self.total_steps - since))


def _steps(value: float, total_steps: int) -> int:
    return ceil(value * total_steps) if value < 1 else int(value)
