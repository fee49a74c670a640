"""One optimizer step of this process: all its micro-batches, and what it knows of them before its peers are heard."""

import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from finetune_trainer.data.batches import MicroBatch
from finetune_trainer.train import gradients
from finetune_trainer.train.engine import optimizer_step, scaled
from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.run import Run


@dataclass(frozen=True)
class Step:
    """A step that is done here, though what it came to over all processes may not be known yet."""

    index: int
    """Counted from 0."""
    weight: float
    """What the losses of all processes together are divided by."""
    losses: list[torch.Tensor]
    """Sum of the losses of each micro-batch, on the device."""
    grad_norm: float | torch.Tensor
    waited: float
    """Seconds until the micro-batches were there."""

    def mean(self, loss_sum: float) -> float:
        """Return the mean loss, given the sum over all processes. Nothing to predict weighs 0."""
        return loss_sum / (self.weight or 1)


def train_step(run: Run, index: int) -> Step:
    """Do a step. Nothing here waits for the device; every process must call it."""
    weight = run.data.batches.weight(run.data.schedule, index)
    losses: list[torch.Tensor] = []
    waited = 0.0
    start = time.perf_counter()
    for batch, is_last in _with_last(run, index):
        inputs = inputs_of(batch, run.process.device, run.backend)
        waited += time.perf_counter() - start
        run.engine.set_gradient_accumulation_boundary(is_last)
        loss, _ = run.engine(inputs)
        if is_last:
            gradients.complete(run.engine.module, run.plan)
        run.engine.backward(scaled(loss, weight, run.process.world_size), scale_wrt_gas=False)
        losses.append(loss.detach())
        run.watchdog.beat()
        start = time.perf_counter()
    norm = optimizer_step(run.engine, run.plan, run.spec.training, run.learning_rate(index))
    return Step(index, weight, losses, norm, waited)


def _with_last(run: Run, index: int) -> list[tuple[MicroBatch, bool]]:
    """Return this process's micro-batches of a step, each with whether it is the last."""
    batches = list(
        run.data.batches.step_batches(
            run.data.schedule,
            index,
            rank=run.process.rank,
            world_size=run.process.world_size,
            micro_batch_size=run.plan.micro_batch_size,
        )
    )
    return [(batch, False) for batch, _ in pairwise(batches)] + [(batches[-1], True)]
