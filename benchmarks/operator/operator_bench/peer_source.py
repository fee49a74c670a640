"""The peer's source: where Go keeps it, and a build of it with a raised client limit.

This version has no flag for the limit of 20 requests a second that its client library sets. The best that an
administrator could get from it needs another build: one statement of its `main` is replaced in a scratch copy, which
is thrown away. Nothing of its source is kept here.
"""

import functools
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from finetune_cluster.tools import TOOLS, key_of

from finetune_loopback.kube_api import binaries
from operator_bench.errors import BenchError

TOOL = TOOLS["training-operator"]
MODULE = "github.com/kubeflow/training-operator"
MAIN = Path("cmd/training-operator.v1/main.go")
QPS, BURST = 1000, 2000
STOCK = "mgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{"
RAISED = f"""restConfig := ctrl.GetConfigOrDie()
	restConfig.QPS, restConfig.Burst = {QPS}, {BURST}
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{{"""
FLAGS = ("-trimpath", "-buildvcs=false", "-mod=mod", "-ldflags", TOOL.linker_flags)


@functools.cache
def module_folder() -> Path:
    """Return the module's folder in Go's cache, downloaded first when it is not there."""
    answer = _go("mod", "download", "-json", MODULE, cwd=TOOL.folder)
    return Path(json.loads(answer)["Dir"])


@functools.cache
def tuned_binary() -> Path:
    """Return the program with the raised limit, built first when the pin or the change is new."""
    target = binaries(TOOL.name) / f"{TOOL.name}-tuned"
    stamp = target.with_suffix(".key")
    key = hashlib.sha256(f"{key_of(TOOL)}{STOCK}{RAISED}{FLAGS}".encode()).hexdigest()
    if not (target.exists() and stamp.exists() and stamp.read_text() == key):
        _build(target)
        stamp.write_text(key)
    return target


def raise_limit(source: str) -> str:
    """Return the program's main with the raised limit. Raises BenchError when it does not read as expected."""
    if source.count(STOCK) != 1:
        raise BenchError(
            f"{MAIN} of {MODULE} does not hold exactly once: {STOCK}\n"
            "Another version is pinned now: look how its main makes its client, and change STOCK and RAISED here."
        )
    return source.replace(STOCK, RAISED)


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="peer-tuned-") as name:
        scratch = Path(name)
        shutil.copytree(module_folder(), scratch / "source", copy_function=shutil.copyfile)
        for path in (scratch / "source", *(scratch / "source").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        main = scratch / "source" / MAIN
        main.write_text(raise_limit(main.read_text()))
        for path in TOOL.folder.iterdir():
            shutil.copyfile(path, scratch / path.name)
        _go("mod", "edit", f"-replace={MODULE}=./source", cwd=scratch)
        fresh = target.with_suffix(".new")
        _go("build", *FLAGS, "-o", str(fresh), TOOL.package, cwd=scratch)
        fresh.replace(target)


def _go(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(["go", *arguments], check=False, cwd=cwd, capture_output=True, text=True)
    if result.returncode != 0:
        raise BenchError(f"`go {' '.join(arguments)}` failed:\n{result.stdout}{result.stderr}")
    return result.stdout
