"""What a stage says when the disk is full, and whether another try may help.

The kubelet evicts a pod that stores more than spec.storage.cache.sizeLimit, and the operator tells that. A write that
fails found the disk of the node full before that. If the pod needs more than its limit, no try can succeed; if not,
others filled the disk, and the next attempt may meet another node.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

from finetune_api.exitcodes import ExitCode
from finetune_api.quantity import parse_quantity
from finetune_api.reasons import Reason
from finetune_api.stage import StageInput
from finetune_trainer.errors import CRASH_EXIT_CODE, StageFailure
from finetune_trainer.storage.scratch import NoSpaceError

GIB = 1024**3
_NOTHING_LEFT = 16 * 1024**2
"""Free bytes below which a disk is full. Libraries that write in C++ or Rust say only that a write failed."""


def explain(error: BaseException, job: StageInput, work_dir: Path) -> StageFailure | None:
    """Return the failure that a full disk made of a stage; None when the error has another cause."""
    causes = list(_chain(error))
    if not any(_says_full(cause) for cause in causes) and not _is_full(work_dir):
        return None
    wanted = max((cause.needed for cause in causes if isinstance(cause, NoSpaceError)), default=0)
    used, limit = _used(work_dir), int(parse_quantity(job.spec.storage.cache.size_limit))
    if used + wanted > limit:
        return too_small(used + wanted, job.spec.storage.cache.size_limit)
    return StageFailure(
        CRASH_EXIT_CODE,
        Reason.SCRATCH_FULL,
        f"the disk of the node is full: the scratch space {work_dir} needs {(used + wanted) / GIB:.1f} GiB, which is"
        f" within spec.storage.cache.sizeLimit {job.spec.storage.cache.size_limit}, but there is no room left; give"
        " the nodes more ephemeral storage",
    )


def too_small(needed: int, limit: str, parts: str = "") -> StageFailure:
    """Return the failure of a pod that needs more scratch space than the spec allows."""
    return StageFailure(
        ExitCode.INVALID,
        Reason.SCRATCH_FULL,
        f"a pod needs at least {needed / GIB:.2f} GiB of scratch space{parts}, but spec.storage.cache.sizeLimit is"
        f" {limit}; raise it, and see that the nodes have as much ephemeral storage",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_full(work_dir: Path) -> bool:
    return work_dir.is_dir() and disk_usage(work_dir).free < _NOTHING_LEFT


def _used(work_dir: Path) -> int:
    """Return the bytes on disk below a folder; files that go away meanwhile are left out."""
    total = 0
    for path in work_dir.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total
