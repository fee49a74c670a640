"""What the loop costs: each of its steps beside the bare forward, backward and step over the same micro-batches.

Both run in one process, on one model and in turn, a step of the loop and then a bare one, so that they see the same
machine. The bare step has the inputs on the device already and no engine: only the loss module, torch's clipping and
torch's optimizer. The loop has all that a run has: batches made on the way, DeepSpeed, the sums over the processes,
the log line, the metrics series, the watchdog.
"""

import time
from typing import Any

import torch

from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.run import Run
from trainer_bench.ours import TurnReporter, build, train
from trainer_bench.task import MAX_GRAD_NORM, Task
from trainer_bench.turns import Turns


class PairingReporter(TurnReporter):
    """Takes the time of each step of the loop, and of a bare one after it."""

    def __init__(self, run: Run, task: Task, turns: Turns) -> None:
        super().__init__(run, task, turns)
        self._bare = BareStep(run)
        self.pairs: list[tuple[float, float]] = []
        """Seconds of the loop's step and of the bare one."""
        self.cpu_pairs: list[tuple[float, float]] = []
        """The same in CPU seconds."""
        self._began = (0.0, 0.0)

    def begin(self, done: int, *others: Any) -> None:
        """Start the clocks of the first step."""
        super().begin(done, *others)
        self._began = _clocks()

    def step(self, done: int, *, loss: float, **values: Any) -> None:
        """Tell a step, and do it again without the loop."""
        super().step(done, loss=loss, **values)
        wall, cpu = _since(self._began)
        bare_wall, bare_cpu = self._bare(done - 1)
        self.pairs.append((wall, bare_wall))
        self.cpu_pairs.append((cpu, bare_cpu))
        self._began = _clocks()

    def _pass_over(self) -> None:
        """Go on: nobody else takes turns."""


class BareStep:
    """One step in plain PyTorch on the product's loss module."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._module = run.engine.module
        self._trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        # Weights in fp32, as the engine keeps beside those of 16 bits; where they are fp32 these are the same.
        self._weights = [parameter.detach().float() for parameter in self._trained]
        self._optimizer = torch.optim.AdamW(self._weights, lr=0.0, fused=True)

    def __call__(self, step: int) -> tuple[float, float]:
        """Do a step of the run; return the seconds and CPU seconds it took, without the making of its batches."""
        run, data = self._run, self._run.data
        batches = data.batches.step_batches(
            data.schedule, step, rank=0, world_size=1, micro_batch_size=run.plan.micro_batch_size
        )
        inputs = [inputs_of(batch, run.process.device, run.backend) for batch in batches]
        tokens = data.batches.weight(data.schedule, step)
        start = _clocks()
        for one in inputs:
            loss, _ = self._module(one)
            (loss / tokens).backward()
        torch.nn.utils.clip_grad_norm_(self._trained, MAX_GRAD_NORM)
        self._step()
        return _since(start)

    def _step(self) -> None:
        for weight, parameter in zip(self._weights, self._trained, strict=True):
            weight.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        self._optimizer.step()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clocks()
    return wall - start[0], cpu - start[1]


def main(task: Task, turns: Turns) -> None:
    """Measure."""
    run = build(task)
    reporter = PairingReporter(run, task, turns)
    train(run, task, reporter)
    turns.finish(pairs=reporter.pairs, cpu_pairs=reporter.cpu_pairs)
