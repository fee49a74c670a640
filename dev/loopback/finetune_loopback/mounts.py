"""The mounts of a trainer pod, laid out in a folder: set FINETUNE_MOUNTS to it."""

import shutil
from pathlib import Path


def lay_out_mounts(directory: Path, credentials_file: Path) -> Path:
    """Put the credentials where a pod finds its Secret; return the folder."""
    target = directory / "s3" / "credentials"
    target.parent.mkdir(parents=True)
    shutil.copy(credentials_file, target)
    return directory
