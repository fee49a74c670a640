"""Build contexts: exactly the files a Dockerfile copies, staged with fixed times and modes.

Builders hash modification times into a layer's key. Staging with one fixed time makes the layer cache depend on
content alone, so that a fresh clone does not rebuild six gigabytes, and it keeps the rest of the repository out.
"""

import fnmatch
import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .process import ClusterError

# 2020-01-01: later than 1980, the first year that a zip archive can hold.
FIXED_TIME = 1577836800
IGNORED = ("__pycache__", "*.pyc", "*.egg-info", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache")


@dataclass(frozen=True)
class Context:
    """A staged build context and the key of its content."""

    folder: Path
    dockerfile: Path
    key: str


def copied_sources(dockerfile: str) -> list[str]:
    """Paths that the Dockerfile's COPY and ADD steps take from the context, in order.

    Sources of ``COPY --from`` are not of the context. Raises ClusterError for a form we cannot read: JSON lists,
    here-documents, wildcards, variables and addresses.
    """
    sources: list[str] = []
    for number, line in _logical_lines(dockerfile):
        words = shlex.split(line, comments=True) if line.split(maxsplit=1)[0].upper() in ("COPY", "ADD") else []
        flags = [word for word in words[1:] if word.startswith("--")]
        paths = [word for word in words[1:] if not word.startswith("--")]
        if not words or any(flag.startswith("--from=") for flag in flags):
            continue
        if len(paths) < 2 or any(set(path) & set("*?[]$<") or "://" in path for path in paths):
            raise ClusterError(
                f"Dockerfile line {number}: `{line}` must name plain files and folders, without wildcards, "
                "variables, lists or addresses, so that the build's inputs are known."
            )
        sources += paths[:-1]
    return sources


def _logical_lines(dockerfile: str) -> Iterator[tuple[int, str]]:
    pending, start = "", 0
    for number, raw in enumerate(dockerfile.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield start, pending + line
        pending = ""


@contextmanager
def staged(root: Path, dockerfile: Path, target: Path) -> Iterator[Context]:
    """Copy what ``dockerfile`` takes from ``root`` into the folder ``target``, hash it, and remove it in the end.

    Raises ClusterError when a source is missing or lies outside ``root``.
    """
    try:
        yield _stage(root, dockerfile, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _stage(root: Path, dockerfile: Path, target: Path) -> Context:
    text = dockerfile.read_text()
    digest = hashlib.sha256(text.encode())
    shutil.rmtree(target, ignore_errors=True)
    files = target / "files"
    files.mkdir(parents=True)
    for source in copied_sources(text):
        for path in _files(root, source, dockerfile):
            relative = path.relative_to(root)
            digest.update(_copy(path, files / relative, str(relative)))
    _fix_times(files)
    staged = target / "Dockerfile"
    staged.write_text(text)
    return Context(files, staged, digest.hexdigest())


def _files(root: Path, source: str, dockerfile: Path) -> list[Path]:
    relative = PurePosixPath(source.lstrip("/"))
    top = root / relative
    if ".." in relative.parts or not top.exists():
        raise ClusterError(f"{dockerfile.name} copies {source}, which is not in {root}.")
    if top.is_file():
        return [top]
    found = []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        found += [Path(folder) / name for name in sorted(names) if not _is_ignored(name)]
    return found


def _is_ignored(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED)


def _copy(path: Path, copy: Path, name: str) -> bytes:
    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    copy.chmod(mode)
    with copy.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{name}\0{mode:o}\0{content}\0".encode()


def _fix_times(top: Path) -> None:
    for folder, _, names in os.walk(top, topdown=False):
        for name in names:
            os.utime(Path(folder) / name, (FIXED_TIME, FIXED_TIME))
        Path(folder).chmod(0o755)
        os.utime(folder, (FIXED_TIME, FIXED_TIME))
