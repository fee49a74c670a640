"""A pinned Go module with one statement replaced, in a scratch copy that is thrown away: none of it is kept here."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .process import ClusterError, run


@dataclass(frozen=True)
class Change:
    """The statement of a module's file that is replaced, and what stands there instead."""

    module: str
    file: str
    stock: str
    ours: str

    def apply(self, source: str) -> str:
        """Return the file's text with the change. Raises ClusterError when it does not read as expected."""
        if source.count(self.stock) != 1:
            raise ClusterError(
                f"{self.file} of {self.module} does not hold exactly once: {self.stock}\n"
                "Another version is pinned now: look whether it still needs the change, and mend or remove it."
            )
        return source.replace(self.stock, self.ours)


def module_source(folder: Path, module: str) -> Path:
    """Return where Go keeps the source of a module that `folder` pins, downloaded first when it is not there."""
    return Path(json.loads(run(["go", "mod", "download", "-json", module], cwd=folder))["Dir"])


@contextmanager
def changed_source(folder: Path, change: Change) -> Iterator[Path]:
    """Give a copy of a folder with go.mod in which the changed module takes the place of the pinned one."""
    with tempfile.TemporaryDirectory(prefix="changed-source-") as name:
        scratch = Path(name)
        copy = scratch / "source"
        shutil.copytree(module_source(folder, change.module), copy, copy_function=shutil.copyfile)
        for path in (copy, *copy.rglob("*")):  # Go keeps its modules read-only
            path.chmod(0o755 if path.is_dir() else 0o644)
        target = copy / change.file
        target.write_text(change.apply(target.read_text()))
        for path in folder.iterdir():
            shutil.copyfile(path, scratch / path.name)
        run(["go", "mod", "edit", f"-replace={change.module}=./source"], cwd=scratch)
        yield scratch
