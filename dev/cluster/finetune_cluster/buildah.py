"""Image builds without a Docker engine: buildah, its store, and the base image made from Debian packages."""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .context import Context
from .layout import SOURCES, Layout
from .process import ClusterError, run, step

BASE_IMAGE = "localhost/finetune-base:dev"
BASE_SUITE = "bookworm"
# DeepSpeed compiles an operator while the trainer image is built: hence a compiler and Python's headers.
BASE_PACKAGES = ("python3", "python3-venv", "python3-dev", "g++", "ninja-build", "ca-certificates")
BASE_LEFTOVERS = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)
# The machine's way to package indexes: mounted into build steps, never written into an image.
MACHINE_FILES = ("/etc/ssl/certs", "/etc/pip.conf")
UV_SETTINGS = "/etc/uv/uv.toml"
# uv trusts its own list of authorities unless told to trust the machine's, as pip does.
DEFAULT_UV_SETTINGS = "system-certs = true\n"


@dataclass(frozen=True)
class Layer:
    """One layer of an image: the digest of its uncompressed archive and its unpacked files."""

    diff_id: str
    files: Path


@dataclass(frozen=True)
class StoredImage:
    """An image in buildah's store: its configuration as stored, and its layers from the base up."""

    name: str
    configuration: bytes
    layers: tuple[Layer, ...]


def buildah(layout: Layout, *arguments: str | Path, log: Path | None = None) -> str:
    """Run buildah on the state folder's store; return what it printed."""
    layout.scratch.mkdir(parents=True, exist_ok=True)
    return run(["unshare", "--mount", SOURCES / "buildah-run.sh", layout.state, *arguments], log=log)


def has_image(layout: Layout, name: str) -> bool:
    """Whether the store holds an image of this name."""
    return any(
        name in image.get("names", []) for image in _read(layout.containers / "overlay-images" / "images.json")
    )


def build(layout: Layout, name: str, context: Context, *, arguments: Mapping[str, str]) -> None:
    """Build an image from a staged context; unchanged steps come from the store."""
    flags = ["--isolation", "chroot", "--network", "host", "--layers", "--pull-never", "--format", "oci"]
    flags += _volumes(layout)
    for key, value in arguments.items():
        flags += ["--build-arg", f"{key}={value}"]
    log = layout.scratch / f"build-{name.rsplit('/', 1)[-1].replace(':', '-')}.log"
    buildah(layout, "bud", *flags, "--file", context.dockerfile, "--tag", name, context.folder, log=log)


def _volumes(layout: Layout) -> list[str]:
    layout.uv_cache.mkdir(parents=True, exist_ok=True)
    settings = Path(UV_SETTINGS)
    if not settings.exists():
        settings = layout.state / "uv.toml"
        settings.write_text(DEFAULT_UV_SETTINGS)
    mounts = [f"{path}:{path}:ro" for path in MACHINE_FILES if Path(path).exists()]
    # RUN steps are root's, whose home is where it is here.
    cache = Path("~root/.cache/uv").expanduser()
    mounts += [f"{settings}:{UV_SETTINGS}:ro", f"{layout.uv_cache}:{cache}"]
    return [word for mount in mounts for word in ("--volume", mount)]


def prune(layout: Layout) -> None:
    """Drop images that no name leads to any more, among them the cached first stages of builds.

    The caller holds the lock of builds: working containers found here are left over from builds that were broken off.
    """
    buildah(layout, "rm", "--all")
    buildah(layout, "rmi", "--prune")


def stored_image(layout: Layout, name: str) -> StoredImage:
    """Read an image from the store. Raises ClusterError when it is not there."""
    images = _read(layout.containers / "overlay-images" / "images.json")
    image = next((entry for entry in images if name in entry.get("names", [])), None)
    if image is None:
        raise ClusterError(f"Image {name} is not built: run `python3 dev/cluster images`.")
    file = base64.b64encode(f"sha256:{image['id']}".encode()).decode()
    configuration = (layout.containers / "overlay-images" / image["id"] / f"={file}").read_bytes()
    layers = layer_chain(_read(layout.containers / "overlay-layers" / "layers.json"), image["layer"])
    expected = json.loads(configuration)["rootfs"]["diff_ids"]
    if [diff_id for _, diff_id in layers] != expected:
        raise ClusterError(
            f"The store's layers of {name} do not match its configuration: remove {layout.containers}."
        )
    folder = layout.containers / "overlay"
    return StoredImage(name, configuration, tuple(Layer(diff, folder / key / "diff") for key, diff in layers))


def layer_chain(layers: list[dict[str, Any]], top: str) -> list[tuple[str, str]]:
    """(store key, uncompressed digest) of a layer and its parents, from the base up."""
    by_key = {layer["id"]: layer for layer in layers}
    chain: list[tuple[str, str]] = []
    key: str | None = top
    while key:
        chain.append((key, by_key[key]["diff-digest"]))
        key = by_key[key].get("parent")
    return chain[::-1]


def _read(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())) if path.exists() else []


def base_key() -> str:
    """Key of the base image: its suite and packages."""
    return hashlib.sha256(repr((BASE_SUITE, BASE_PACKAGES, BASE_LEFTOVERS)).encode()).hexdigest()


def ensure_base(layout: Layout) -> None:
    """Make the base image from Debian packages, unless the present one stands."""
    stamp = layout.keys / "base"
    if has_image(layout, BASE_IMAGE) and stamp.exists() and stamp.read_text() == base_key():
        return
    with step("base image from Debian packages"):
        _make_base(layout)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(base_key())


def _make_base(layout: Layout) -> None:
    root = layout.scratch / "base-root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    included = f"--include={','.join(BASE_PACKAGES)}"
    run(
        ["unshare", "--mount", "debootstrap", "--variant=minbase", included, BASE_SUITE, root],
        log=layout.scratch / "debootstrap.log",
    )
    for folder in BASE_LEFTOVERS:
        _empty(root / folder)
    context = layout.scratch / "base-context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    run(["tar", "--numeric-owner", "--xattrs", "-C", root, "-cf", context / "base.tar", "."])
    (context / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["/bin/bash"]\n')
    build(layout, BASE_IMAGE, Context(context, context / "Dockerfile", base_key()), arguments={})
    shutil.rmtree(context)
    shutil.rmtree(root)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
