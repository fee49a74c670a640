"""How the loop says that it ends before the last step; every process says the same, in the words of rank 0."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from traceback import walk_tb

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.train.processes import from_rank_zero
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.sync import Outcome

_LACKS_OF_MEMORY = ("out of memory", "ALLOC_FAILED")


def stopped(saver: Saver, *, done: int, stuck: bool) -> StageFailure:
    """Return the end of a run that was stopped on request; `stuck`: an upload did not end in time."""
    words = from_rank_zero(f"{_how_saved(saver, done=done, stuck=stuck)}; {_last_commit(saver)}")
    return StageFailure(
        ExitCode.STOPPED, Reason.STOPPED, f"stopped on request after step {done}; its checkpoint {words}"
    )


def diverged(saver: Saver, what: str, rows: str) -> StageFailure:
    """Return the end of a run whose numbers went bad: what happened, and which rows are suspected."""
    return StageFailure(
        ExitCode.DIVERGED,
        Reason.DIVERGED,
        f"{what}; {rows}; mend the rows, lower spec.training.learningRate or spec.training.optimizer.maxGradNorm,"
        f" or use precision fp32; {from_rank_zero(_last_commit(saver))}",
    )


def no_number(outcome: Outcome) -> str:
    """Return what of a step is no number."""
    what = "the gradient" if isfinite(outcome.loss_sum) else "the loss"
    return f"{what} is no longer a number at step {outcome.done}"


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise StageFailure for what says that the GPU is full; the next attempt takes a plan that needs less.

    NCCL and cuBLAS ask the driver for theirs and not torch, whose own error is then never raised; their words alone
    tell. The driver says the same of the host's memory, which no such plan mends.
    """
    try:
        yield
    except RuntimeError as error:
        telling = [line for line in str(error).splitlines() if any(words in line for words in _LACKS_OF_MEMORY)]
        if not telling:
            raise
        raise _lack(telling[0], is_of_host=_is_of_host(error)) from error


def _is_of_host(error: RuntimeError) -> bool:
    """Tell whether DeepSpeed was pinning memory for an offloaded optimizer: the innermost function is named so."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return "_pin" in frame.f_code.co_name


def _lack(telling: str, *, is_of_host: bool) -> StageFailure:
    if is_of_host:
        return StageFailure(
            ExitCode.INVALID,
            Reason.OUT_OF_MEMORY,
            f"the host's memory did not suffice for the optimizer's state: {telling}; raise"
            " spec.podTemplate.resources.limits.memory, on nodes that have it, or spec.distributed.numNodes",
        )
    return StageFailure(
        ExitCode.OUT_OF_DEVICE_MEMORY,
        Reason.OUT_OF_DEVICE_MEMORY,
        f"the GPU's memory did not suffice: {telling}",
    )


def _how_saved(saver: Saver, *, done: int, stuck: bool) -> str:
    if stuck:
        return "did not finish its upload within the grace period"
    if saver.last is not None and saver.last.step == done:
        return "is committed"
    return f"could not be committed: {saver.last_error}"


def _last_commit(saver: Saver) -> str:
    return f"the last good checkpoint is {saver.last.uri}" if saver.last else "no checkpoint was committed"
