"""Policy: the plan of an attempt.

The plan that was prepared holds for as long as it fits: a run whose attempts compute alike repeats itself bit by bit.
Another one is made where the spec now asks for other processes or another way to compute a step, where the GPUs turn
out to be smaller than was assumed, and after attempts that ran out of memory: each is followed by the fastest plan
that needs less.
"""

from collections.abc import Callable

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_api.status import Plan
from finetune_trainer import log
from finetune_trainer.data.schedule import Schedule
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.advice import advice
from finetune_trainer.prepare.memory import GIB
from finetune_trainer.prepare.plan import Facts, budget_of, checkpointing, more_frugal, per_process, resolve


def plan_of_attempt(
    job: StageInput, prepared: Plan, schedule: Schedule, *, device_bytes: int | None, facts: Callable[[], Facts]
) -> Plan:
    """Return the plan; every process that is told the same finds the same. Raises StageFailure when nothing fits.

    `device_bytes` is the memory of the run's smallest GPU. `facts` are asked for only where another plan is made.
    """
    budget = budget_of(job.spec, memory_limit_bytes=job.memory_limit_bytes, device_bytes=device_bytes)
    holds = _holds(job.spec, prepared, schedule, budget)
    if holds and not job.out_of_memory:
        return prepared
    known = facts()
    plan = prepared if holds else resolve(job.spec, known)
    for _ in range(job.out_of_memory):
        frugal = more_frugal(job.spec, known, plan)
        if frugal is None:
            raise _nothing_left(job, plan)
        plan = frugal
    log.info("plan", **plan.to_wire())
    return plan


def _holds(spec: FineTuneJobSpec, plan: Plan, schedule: Schedule, budget: int | None) -> bool:
    """Whether a plan is one that the spec allows and that fits."""
    distributed, training = spec.distributed, spec.training
    world = distributed.num_nodes * distributed.processes_per_node
    recomputed = plan.activation_checkpointing_every if plan.activation_checkpointing else 0
    wanted = training.micro_batch_size
    micro = plan.micro_batch_size if wanted == "auto" else min(wanted, per_process(schedule, world))
    return (
        plan.world_size == world
        and distributed.zero_stage in ("auto", plan.zero_stage)
        and recomputed in checkpointing(spec)
        and not (training.compile and plan.zero_stage == 3)
        and plan.micro_batch_size == micro
        and (budget is None or plan.estimated_bytes_per_device <= budget)
    )


def _nothing_left(job: StageInput, plan: Plan) -> StageFailure:
    on_gpu = job.spec.distributed.device == "gpu"
    return StageFailure(
        ExitCode.INVALID,
        Reason.OUT_OF_DEVICE_MEMORY if on_gpu else Reason.OUT_OF_MEMORY,
        f"{job.out_of_memory} attempts ran out of memory, and no plan is left that needs less than the last one"
        f" (micro-batches of {plan.micro_batch_size}, ZeRO stage {plan.zero_stage}, activations"
        f" {'recomputed' if plan.activation_checkpointing else 'kept'}: about"
        f" {plan.estimated_bytes_per_device / GIB:.1f} GiB for each process); lower spec.data.maxLength,"
        f" {advice(job.spec, plan)}",
    )
