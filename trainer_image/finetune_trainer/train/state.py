"""The state of a run on disk: what a commit holds of it, saved and loaded by every process.

    rank-<r>/engine/state/     DeepSpeed's shards: weights, master weights, optimizer
    rank-<r>/random.pt         random number generators of the process
    rank-0/run.json            RunState
    rank-0/weights/            the trained weights, whole, for everyone who has no DeepSpeed

The data cursor and the step stand in the commit; the learning rate is a function of the step.
"""

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import torch
from pydantic import Field

from finetune_api.spec.evaluation import BestMetric
from finetune_api.status import Scores, Validation
from finetune_trainer.methods import Method
from finetune_trainer.model import weights
from finetune_trainer.train.engine import Engine, expect_universal
from finetune_trainer.train.optimizers import page
from finetune_trainer.train.processes import Process
from finetune_trainer.train.reshard import ENGINE, SHARDS, UNIVERSAL, load_whole
from finetune_trainer.train.run import Run

WEIGHTS = "weights"
_RANDOM = "random.pt"
_RUN = "run.json"


class RunState(Validation):
    """What a resumed run knows of its past beside weights and commits: among others its newest validation scores."""

    baseline: Scores | None = Field(default=None, description="Scores of the base model on the test rows.")
    metric: BestMetric = Field(default="loss", description="What merit_at_gain is one of.")
    merit_at_gain: float | None = Field(default=None, description="Merit of the validation scores at the last gain.")
    evaluations_without_gain: int = Field(default=0, description="Evaluations in a row that were no gain.")
    recent_losses: list[float] = Field(default=[], description="Losses of the newest steps, for training.lossSpike.")


def save_state(engine: Engine, method: Method, process: Process, run: RunState, directory: Path) -> None:
    """Write this process's part of a checkpoint to `directory`; every process must call it."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    directory.mkdir(parents=True)
    # Python 3.11.0 to 3.11.3 pickle an enum as a call of getattr, which nothing that loads tensors alone may allow.
    copyreg.pickle(ZeroStageEnum, _by_value)
    engine.save_checkpoint(
        str(directory / ENGINE), tag=SHARDS, save_latest=False, exclude_frozen_parameters=not method.saves_frozen
    )
    torch.save(_random(process), directory / _RANDOM)
    weights.save(engine.module.model, method, directory / WEIGHTS, keep=process.rank == 0)
    if process.rank == 0:
        (directory / _RUN).write_text(run.model_dump_json(by_alias=True))


def wanted(name: str, process: Process, *, resharded: bool) -> bool:
    """Whether this pod needs a file of a commit to go on.

    Those of its own ranks, and what rank 0 holds for all; to cut the shards anew, those of all ranks.
    """
    rank, _, path = name.removeprefix("rank-").partition("/")
    return (resharded or int(rank) == 0 or int(rank) in process.pod_ranks) and not path.startswith(f"{WEIGHTS}/")


def is_weights(name: str) -> bool:
    """Whether a file of a commit belongs to the whole trained weights."""
    return name.startswith(f"rank-0/{WEIGHTS}/")


def join_shards(directory: Path) -> None:
    """Bring the shards of all fetched ranks together, where DeepSpeed looks for them; once per pod."""
    target = directory / ENGINE / SHARDS
    target.mkdir(parents=True)
    for shard in directory.glob(f"rank-*/{ENGINE}/{SHARDS}/*"):
        (target / shard.name).hardlink_to(shard)


def load_state(run: Run, directory: Path, *, resharded: bool) -> RunState:
    """Restore this process from a fetched commit, or from its universal form; every process must call it."""
    if resharded and run.plan.zero_stage == 0:
        load_whole(run.engine.module, run.engine.optimizer, directory)
    else:
        _load_engine(run.engine, run.method, directory, resharded=resharded)
    _restore_random(run.process, directory / f"rank-{run.process.rank}" / _RANDOM)
    return RunState.model_validate_json((directory / "rank-0" / _RUN).read_text())


@contextmanager
def trusted() -> Iterator[None]:
    """While this lasts, torch unpickles the few classes of DeepSpeed that its shards hold beside tensors.

    Unpickling runs what a file says, so the launcher has torch load tensors alone (FORCE_WEIGHTS_ONLY).
    """
    # DeepSpeed is slow to import and prints meanwhile: it is left to `processes.join` to do that first.
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([ZeroStageEnum, LossScaler, fragment_address]):
        yield


def _load_engine(engine: Engine, method: Method, directory: Path, *, resharded: bool) -> None:
    expect_universal(engine, resharded)
    with trusted():
        # A checkpoint without the frozen weights lacks most of the model's keys.
        path, _ = engine.load_checkpoint(
            str(directory / ENGINE),
            tag=UNIVERSAL if resharded else SHARDS,
            load_module_strict=method.saves_frozen,
        )
    if path is None:
        raise ValueError(f"{directory} holds no DeepSpeed checkpoint")
    page(engine.optimizer)
    if resharded:
        for state in engine.optimizer.state.values():
            # DeepSpeed's loader of the universal form gives all groups one tensor, which each would count up, and
            # leaves it on the host; the fused kernel of AdamW takes it from where the moments are alone.
            state["step"] = state["step"].to(state["exp_avg"].device, torch.float32, copy=True)


def _restore_random(process: Process, path: Path) -> None:
    """Go on with this rank's random numbers; a rank that the checkpoint does not have keeps those of its seed."""
    if not path.exists():
        return
    random = torch.load(path, weights_only=True)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], process.device)


def _by_value(member: Enum) -> tuple[type[Enum], tuple[object]]:
    return type(member), (member.value,)


def _random(process: Process) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if process.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(process.device)
    return states
