"""The learning rate of every step, as a pure function: a resumed run needs no scheduler state."""

from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Literal

from finetune_api.spec import Training


@dataclass(frozen=True)
class LearningRate:
    """A linear warm-up to `peak`, then the course of `scheduler` down to zero at `total_steps`."""

    peak: float
    scheduler: Literal["linear", "cosine", "constant"]
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, training: Training, total_steps: int) -> "LearningRate":
        """Return the learning rate of a run; a warm-up below 1 is a share of its steps."""
        share = training.warmup < 1
        warmup = ceil(training.warmup * total_steps) if share else int(training.warmup)
        return cls(training.learning_rate, training.scheduler, warmup, total_steps)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0. The first step of the warm-up is not lost at 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        if self.scheduler == "constant":
            return self.peak
        return self.peak * (1 - done if self.scheduler == "linear" else (1 + cos(pi * done)) / 2)
