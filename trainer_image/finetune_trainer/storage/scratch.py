"""The pod's scratch space: where an object's file goes, and whether there is room for it."""

import errno
from pathlib import Path
from shutil import disk_usage

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure


class NoSpaceError(OSError):
    """As the system says it when a disk is full, but before anything is written."""

    def __init__(self, directory: Path, *, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, f"{needed} bytes are needed and {free} are free", str(directory))
        self.needed = needed


def path_below(directory: Path, key: str, strip_prefix: str) -> Path:
    """Return the file of a key. Raises StageFailure for a key that leads out of the folder."""
    path = directory / key.removeprefix(strip_prefix).lstrip("/")
    if ".." in path.parts:
        raise StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, f"key {key!r} leads out of its folder; rename it")
    return path


def require_space(directory: Path, needed: int) -> None:
    """Make the folder. Raises NoSpaceError when fewer than `needed` bytes are free."""
    directory.mkdir(parents=True, exist_ok=True)
    free = disk_usage(directory).free
    if needed > free:
        raise NoSpaceError(directory, needed=needed, free=free)
