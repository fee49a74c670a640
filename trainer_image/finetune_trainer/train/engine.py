"""DeepSpeed's configuration and engine, and the one rule of loss scaling."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Protocol, cast

import torch

from finetune_api.spec import Training
from finetune_api.status import Plan
from finetune_trainer.objectives import Inputs, LossModule
from finetune_trainer.prepare.memory import LARGEST_BUCKET
from finetune_trainer.train.gradients import deepspeed_types
from finetune_trainer.train.optimizers import set_learning_rate


class Engine(Protocol):
    """What is used of DeepSpeed's engine."""

    module: LossModule
    optimizer: torch.optim.Optimizer
    enable_backward_allreduce: bool

    def __call__(self, inputs: Inputs, *, count: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the module."""

    def train(self, mode: bool = True) -> None:
        """Switch between training and evaluation."""

    def backward(self, loss: torch.Tensor, *, scale_wrt_gas: bool) -> None:
        """Accumulate gradients; at the boundary, reduce them over the processes."""

    def step(self) -> None:
        """Update the weights."""

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """Say whether the next backward pass is the last of the step."""

    def get_global_grad_norm(self) -> float | torch.Tensor | None:
        """Return the norm before clipping of the last step."""

    def save_checkpoint(self, save_dir: str, *, tag: str, save_latest: bool, exclude_frozen_parameters: bool) -> bool:
        """Write this process's part."""

    def load_checkpoint(self, load_dir: str, *, tag: str, load_module_strict: bool) -> tuple[str | None, object]:
        """Read this process's part."""


def deepspeed_config(plan: Plan, training: Training, *, device: str, hidden_size: int) -> dict[str, Any]:
    """Return the configuration; the batch sizes in it are formal, since the loop scales the loss itself."""
    bucket = max(1, min(LARGEST_BUCKET, plan.trainable_parameters))
    zero: dict[str, Any] = {
        "stage": plan.zero_stage,
        "overlap_comm": device == "gpu",
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if plan.zero_stage == 3:
        # Norms and biases stay whole on every process: gathering them costs more than it saves.
        zero |= {"stage3_param_persistence_threshold": 10 * hidden_size, "stage3_prefetch_bucket_size": bucket}
    if plan.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "gpu"}
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        # At stage 0 in fp32 DeepSpeed tells no norm, so that case is clipped in `optimizer_step`.
        "gradient_clipping": 0.0 if is_plain(plan) else training.optimizer.max_grad_norm,
        "bf16": {"enabled": plan.precision == "bf16"},
        "data_types": deepspeed_types(plan),
        "zero_optimization": zero,
        # DeepSpeed knows torch's optimizers by name; those of bitsandbytes are tried by our own tests.
        "zero_allow_untested_optimizer": True,
        # torch's AdamW updates weights on the host too; DeepSpeed's own is compiled when it is first used.
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
    }


def start_engine(loss: LossModule, plan: Plan, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Engine:
    """Return the engine; every process must call it."""
    with redirect_stdout(sys.stderr):
        import deepspeed

        if plan.zero_stage == 3:
            _join_head(loss)
        # At stage 0 in bf16 DeepSpeed allocates Adam's state by a step without gradients. It would count as the first
        # step, and by the bias correction make the next ones too small; and paged memory is never given back.
        with _standing_still(optimizer):
            engine, *_ = deepspeed.initialize(
                model=loss, optimizer=optimizer, config=config, dist_init_required=False
            )
    if plan.world_size == 1 and plan.zero_stage == 0:
        # Nobody to sum up with: DeepSpeed would copy every gradient into a buffer and back all the same.
        engine.enable_backward_allreduce = False
    return cast(Engine, engine)


@contextmanager
def _standing_still(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While this lasts, a step of the optimizer does nothing."""
    vars(optimizer)["step"] = lambda *_, **__: None
    try:
        yield
    finally:
        del vars(optimizer)["step"]


def _join_head(loss: LossModule) -> None:
    """Let a head that has an adapter be put together at once and not part by part: it is called once for all."""
    from deepspeed.utils.z3_leaf_module import set_z3_leaf_module

    head = loss.transformer.get_output_embeddings()
    if head is not None and next(head.children(), None) is not None:
        set_z3_leaf_module(head, True)


def expect_universal(engine: Engine, expected: bool) -> None:
    """Say whether the next checkpoint that is loaded has the universal form: known only once it is found."""
    cast(Any, engine)._config.load_universal_checkpoint = expected


def scaled(loss_sum: torch.Tensor, weight: float, world_size: int) -> torch.Tensor:
    """Return the loss to differentiate, given the weight of the whole step over all processes.

    The processes' gradients are averaged, so the factor world size makes the step's gradient that of the weighted
    mean over all it predicts, however that is spread over micro-batches and processes. Nothing to predict weighs 0.
    """
    return loss_sum * (world_size / (weight or 1))


def optimizer_step(engine: Engine, plan: Plan, training: Training, learning_rate: float) -> float | torch.Tensor:
    """Clip, update the weights, and return the gradient norm before clipping; it is negative or NaN if not finite."""
    set_learning_rate(engine.optimizer, learning_rate)
    if not is_plain(plan):
        engine.step()
        norm = engine.get_global_grad_norm()
        return float("nan") if norm is None else norm
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    limit = training.optimizer.max_grad_norm or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(trained, limit)
    engine.step()
    return norm


def is_plain(plan: Plan) -> bool:
    """Whether DeepSpeed leaves model and optimizer as they are: whole and in one number format."""
    return plan.zero_stage == 0 and plan.precision == "fp32"
