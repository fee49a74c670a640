"""The plan: what every `auto` becomes, decided before any training pod exists, and whether it fits at all.

    zeroStage              0 for one process, or an optimizer that is not sharded; else 2, and 3 where 2 does not fit:
                           sharding the weights too costs a few percent of speed, so it is not done without need
    activationCheckpointing  off where the activations fit, since recomputing them costs about a fifth of the speed;
                           else selective, and on where that does not fit
    microBatchSize         the largest divisor of a process's share of a step that fits, up to the number of tokens
                           beyond which a larger forward pass is not faster
    offloadOptimizer       off; on GPUs on where nothing else fits, since it adds a copy over PCIe and an update on
                           the host's cores to each step, and the host has room. On CPUs it would gain nothing

What does not fit is given up in this order: large micro-batches, kept activations, whole weights, the optimizer on
the device.

A CPU job that does not fit its memory limit is refused. What a GPU holds is known only once a process runs on it, so
a GPU job is refused before that only if its state alone, whatever the micro-batches, is more than any GPU holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Plan
from finetune_trainer.data.schedule import Schedule
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.advice import advice
from finetune_trainer.prepare.memory import GIB, MOMENT_BYTES, Estimate, Layout, estimate
from finetune_trainer.prepare.model_shape import ModelShape

ASSUMED_GPU_BYTES = 80 * GIB
"""A GPU's memory is not known before a pod runs on it: until then that of an A100 or H100 is assumed."""
ASSUMED_HOST_BYTES = 256 * GIB
"""Of a GPU's share of its host where the pod has no memory limit: machines with eight such GPUs have 2 TiB."""
LARGEST_GPU_BYTES = 288_000_000_000
"""The most that a GPU has: that of a B300 (https://www.nvidia.com/en-us/data-center/dgx-b300/)."""
_USABLE = 0.9
"""Share of a GPU's memory that is planned for; the allocator's fragments take the rest."""
_TARGET_TOKENS = {"cpu": 1024, "gpu": 16384}
"""Tokens of a forward pass beyond which the matrix products are no faster."""


@dataclass(frozen=True)
class Facts:
    """What is known when the plan is made."""

    shape: ModelShape
    schedule: Schedule
    sequence_tokens: int
    """Tokens of the longest sequence."""
    memory_limit_bytes: int | None
    """Memory limit of a training pod."""
    device_bytes: int | None = None
    """Memory of the smallest GPU of the run, where it is known."""


@dataclass(frozen=True)
class _Choice:
    layout: Layout
    micro_batch_size: int
    estimate: Estimate


def resolve(spec: FineTuneJobSpec, facts: Facts) -> Plan:
    """Return the plan of a job.

    Raises StageFailure when no allowed choice fits the pod (OutOfMemory) or any GPU (OutOfDeviceMemory).
    """
    budget = budget_of(spec, memory_limit_bytes=facts.memory_limit_bytes, device_bytes=facts.device_bytes)
    choices = list(_choices(spec, facts))
    _require_host(spec, facts, choices)
    fitting = (choice for choice in choices if budget is None or choice.estimate.total <= budget)
    chosen = next(fitting, None)
    if chosen is None:
        chosen = min(choices, key=lambda choice: (choice.estimate.total, choice.estimate.activations))
        _require_room(spec, facts, chosen)
    return _plan(spec, facts, chosen)


def more_frugal(spec: FineTuneJobSpec, facts: Facts, plan: Plan) -> Plan | None:
    """Return the fastest plan that needs less memory than one that ran out of it; None when there is none.

    Smaller micro-batches are taken whatever the spec says of their size: they change no number but by rounding, since
    the global batch stays. The ZeRO stage stays where the optimizer's state, which may be committed, fits no other.
    """
    any_size = {"training": spec.training.model_copy(update={"micro_batch_size": "auto"})}
    for choice in _choices(spec.model_copy(update=any_size), facts):
        needs_less = choice.estimate.total < plan.estimated_bytes_per_device
        goes_on = spec.training.optimizer.can_reshard or choice.layout.zero_stage == plan.zero_stage
        if needs_less and goes_on and choice.micro_batch_size <= plan.micro_batch_size:
            return _plan(spec, facts, choice)
    return None


def budget_of(spec: FineTuneJobSpec, *, memory_limit_bytes: int | None, device_bytes: int | None) -> int | None:
    """Return the bytes that one process may use; None: no limit is known."""
    if spec.distributed.device == "gpu":
        return int((device_bytes or ASSUMED_GPU_BYTES) * _USABLE)
    if memory_limit_bytes is None:
        return None
    return memory_limit_bytes // spec.distributed.processes_per_node


def _choices(spec: FineTuneJobSpec, facts: Facts) -> Iterator[_Choice]:
    """Yield what the spec allows, from the fastest to the most frugal."""
    world = spec.distributed.num_nodes * spec.distributed.processes_per_node
    quantization = spec.method.spelled_out().quantization
    quantized_bits = quantization.bits if quantization else 4
    for offload, zero_stage, every in _ways(spec, world):
        for micro in _micro_batch_sizes(spec, facts, world):
            layout = Layout(
                device=spec.distributed.device,
                precision=spec.training.precision,
                zero_stage=zero_stage,
                world_size=world,
                micro_batch_tokens=micro * facts.sequence_tokens,
                activation_checkpointing=every > 0,
                activation_checkpointing_every=max(1, every),
                moment_bytes=MOMENT_BYTES[spec.training.optimizer.type],
                quantized_bits=quantized_bits,
                offload_optimizer=offload,
                accumulates=micro < per_process(facts.schedule, world),
            )
            choice = _Choice(layout, micro, estimate(facts.shape, layout))
            # Where it is the user's wish, a host without a known limit is as large as it takes.
            if spec.distributed.offload_optimizer == "on" or choice.estimate.host <= _host_share(spec, facts):
                yield choice


def _ways(spec: FineTuneJobSpec, world: int) -> Iterator[tuple[bool, int, int]]:
    """Yield whether the optimizer is offloaded, the ZeRO stage, and every how many-th layer is recomputed."""
    for offload in offloading(spec):
        yield from product([offload], _zero_stages(spec, world, offload=offload), checkpointing(spec))


def _zero_stages(spec: FineTuneJobSpec, world: int, *, offload: bool) -> list[int]:
    wanted = spec.distributed.zero_stage
    if wanted != "auto":
        return [wanted]
    if world == 1 or not spec.training.optimizer.can_shard:
        return [2] if offload else [0]
    can_shard_weights = spec.can_shard_weights and not spec.training.compile
    return [2, 3] if can_shard_weights else [2]


def offloading(spec: FineTuneJobSpec) -> list[bool]:
    """Return what the spec allows, from the fastest on: whether the optimizer's state is kept on the host."""
    wanted = spec.distributed.offload_optimizer
    if wanted != "auto":
        return [wanted == "on"]
    is_possible = spec.training.optimizer.can_offload and spec.distributed.zero_stage != 0
    return [False, True] if is_possible and spec.distributed.device == "gpu" else [False]


def _host_share(spec: FineTuneJobSpec, facts: Facts) -> int:
    """Return the bytes of the host's memory that one process may use."""
    if facts.memory_limit_bytes is None:
        return ASSUMED_HOST_BYTES
    return facts.memory_limit_bytes // spec.distributed.processes_per_node


def checkpointing(spec: FineTuneJobSpec) -> list[int]:
    """Return what the spec allows, from the fastest on: every how many-th layer is recomputed; 0 none."""
    choices = {"off": [0], "selective": [2], "on": [1]}
    return choices.get(spec.training.activation_checkpointing, [0, 2, 1])


def per_process(schedule: Schedule, world: int) -> int:
    """Return the most sequences of a step that one process gets."""
    return -(-schedule.sequences_per_step // world)


def _micro_batch_sizes(spec: FineTuneJobSpec, facts: Facts, world: int) -> list[int]:
    most = per_process(facts.schedule, world)
    wanted = spec.training.micro_batch_size
    if wanted != "auto":
        return [min(wanted, most)]
    target = _TARGET_TOKENS[spec.distributed.device]
    sizes = [size for size in range(most, 0, -1) if most % size == 0]
    return [size for size in sizes if size == 1 or size * facts.sequence_tokens <= target]


def _plan(spec: FineTuneJobSpec, facts: Facts, choice: _Choice) -> Plan:
    varlen = spec.distributed.device == "gpu" and spec.training.precision == "bf16"
    world = choice.layout.world_size
    return Plan(
        zero_stage=choice.layout.zero_stage,
        world_size=world,
        micro_batch_size=choice.micro_batch_size,
        gradient_accumulation_steps=-(-per_process(facts.schedule, world) // choice.micro_batch_size),
        activation_checkpointing=choice.layout.activation_checkpointing,
        activation_checkpointing_every=choice.layout.activation_checkpointing_every,
        offload_optimizer=choice.layout.offload_optimizer,
        attention="varlen" if varlen else "sdpa",
        precision=spec.training.precision,
        total_steps=facts.schedule.total_steps,
        total_parameters=facts.shape.total_parameters,
        trainable_parameters=facts.shape.trainable_parameters,
        estimated_bytes_per_device=choice.estimate.total,
    )


def _require_room(spec: FineTuneJobSpec, facts: Facts, least: _Choice) -> None:
    """Raise StageFailure where what needs least cannot fit; on a GPU activations are only estimated, and tried."""
    if spec.distributed.device == "cpu":
        raise _too_large_for_pod(spec, facts, least)
    if least.estimate.state > (facts.device_bytes or LARGEST_GPU_BYTES):
        raise _too_large_for_gpu(spec, facts, least)


def _require_host(spec: FineTuneJobSpec, facts: Facts, choices: Sequence[_Choice]) -> None:
    """Raise StageFailure where an optimizer that shall be offloaded is more than the pod's memory limit."""
    least = min(choices, key=lambda choice: choice.estimate.host)
    if facts.memory_limit_bytes is None or least.estimate.host <= _host_share(spec, facts):
        return
    need = least.estimate.host * spec.distributed.processes_per_node / GIB
    raise StageFailure(
        ExitCode.INVALID,
        Reason.OUT_OF_MEMORY,
        f"the optimizer's state takes about {need:.1f} GiB of the host's memory in each pod, but its memory limit is"
        f" {facts.memory_limit_bytes / GIB:.1f} GiB; raise spec.podTemplate.resources.limits.memory, raise"
        " spec.distributed.numNodes or set spec.distributed.offloadOptimizer: auto",
    )


def _too_large_for_pod(spec: FineTuneJobSpec, facts: Facts, least: _Choice) -> StageFailure:
    processes = spec.distributed.processes_per_node
    limit = (facts.memory_limit_bytes or 0) / GIB
    need = least.estimate.total * processes / GIB
    return StageFailure(
        ExitCode.INVALID,
        Reason.OUT_OF_MEMORY,
        f"training needs about {need:.1f} GiB in each pod ({processes} process{'es' if processes > 1 else ''} of"
        f" {least.estimate.total / GIB:.1f} GiB: {least.estimate}), but its memory limit is {limit:.1f} GiB;"
        f" {advice(spec, _plan(spec, facts, least))}",
    )


def _too_large_for_gpu(spec: FineTuneJobSpec, facts: Facts, least: _Choice) -> StageFailure:
    largest, known = (facts.device_bytes or LARGEST_GPU_BYTES) / GIB, facts.device_bytes is not None
    return StageFailure(
        ExitCode.INVALID,
        Reason.OUT_OF_DEVICE_MEMORY,
        f"training needs about {least.estimate.total / GIB:.1f} GiB of each GPU ({least.estimate}), but"
        f" {'the smallest of the run' if known else 'the largest there is'} has {largest:.1f} GiB;"
        f" {advice(spec, _plan(spec, facts, least))}",
    )
