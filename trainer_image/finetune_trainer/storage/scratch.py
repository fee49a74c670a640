"""The pod's scratch space: where an object's file goes, and what is said when the space is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure


def path_below(directory: Path, key: str, strip_prefix: str) -> Path:
    """Return the file of a key. Raises StageFailure for a key that leads out of the folder."""
    path = directory / key.removeprefix(strip_prefix).lstrip("/")
    if ".." in path.parts:
        raise StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, f"key {key!r} leads out of its folder; rename it")
    return path


def require_space(directory: Path, needed: int) -> None:
    """Make the folder. Raises StageFailure when fewer than `needed` bytes are free."""
    directory.mkdir(parents=True, exist_ok=True)
    free = disk_usage(directory).free
    if needed > free:
        raise _full(directory, f"{needed} bytes are needed and {free} are free")


@contextmanager
def scratch_space(directory: Path) -> Iterator[None]:
    """Turn a full disk into a StageFailure that names the folder and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(directory, error.strerror or "") from error


def _full(directory: Path, detail: str) -> StageFailure:
    return StageFailure(
        ExitCode.INVALID,
        Reason.INVALID_SPEC,
        f"the scratch space {directory} is full ({detail}); raise spec.storage.cache.sizeLimit, or give the nodes"
        " more ephemeral storage",
    )
