"""The project's images and the cluster's own: what they are built from, and when they are stale.

An image is stale when the key of its inputs changed: the files its Dockerfile copies, the Dockerfile, the base image
and the versions. With a Docker engine it is Docker that builds, on a public base image; without one buildah does, on
a base image made from Debian packages.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import buildah, machine
from .configuration import ETCD_TAG, PAUSE_IMAGE, REGISTRY
from .context import Context, staged
from .layout import REPOSITORY, SOURCES, Layout
from .process import ClusterError, locked, run, step, succeeds
from .tools import COREDNS_VERSION, KUBERNETES_VERSION, TOOLS, key_of

# Pruning costs the next builds their cached first stages, so it waits until room for one more trainer image is short.
PRUNE_BELOW_GB = 15


@dataclass(frozen=True)
class ImageSource:
    """One of the project's images: its name in the cluster and its Dockerfile, relative to the repository."""

    name: str
    dockerfile: str


PROJECT_IMAGES = {
    "s3": ImageSource("localhost/seaweedfs:dev", "dev/cluster/images/s3.Dockerfile"),
    "operator": ImageSource("localhost/finetune-operator:dev", "operator/Dockerfile"),
    "trainer": ImageSource("localhost/finetune-trainer:dev", "trainer_image/Dockerfile"),
}
CONTROL_PLANE_IMAGES = {
    f"{REGISTRY}/kube-apiserver:{KUBERNETES_VERSION}": "kube-apiserver",
    f"{REGISTRY}/kube-controller-manager:{KUBERNETES_VERSION}": "kube-controller-manager",
    f"{REGISTRY}/kube-scheduler:{KUBERNETES_VERSION}": "kube-scheduler",
    f"{REGISTRY}/etcd:{ETCD_TAG}": "etcd",
}
NODE_IMAGES = {
    PAUSE_IMAGE: "pause",
    f"{REGISTRY}/kube-proxy:{KUBERNETES_VERSION}": "kube-proxy",
    f"{REGISTRY}/coredns:{COREDNS_VERSION}": "coredns",
}
CLUSTER_IMAGES = {**NODE_IMAGES, **CONTROL_PLANE_IMAGES}


def chosen(names: Iterable[str]) -> list[ImageSource]:
    """The project's images of these names, or all. Raises ClusterError for a name that is none of them."""
    wanted = list(names) or list(PROJECT_IMAGES)
    unknown = [name for name in wanted if name not in PROJECT_IMAGES]
    if unknown:
        raise ClusterError(f"No such image: {', '.join(unknown)}; the images are {', '.join(PROJECT_IMAGES)}.")
    return [PROJECT_IMAGES[name] for name in wanted]


def build_project_images(layout: Layout, sources: Iterable[ImageSource], *, with_docker: bool) -> None:
    """Build those of these images that are stale."""
    with locked(layout.locks / "images"):
        if not with_docker:
            _check_disk(layout)
            buildah.ensure_base(layout)
        for source in sources:
            _build_project_image(layout, source, with_docker=with_docker)


def _check_disk(layout: Layout) -> None:
    machine.install_packages()
    if machine.free_disk_gb(layout) < PRUNE_BELOW_GB:
        with step("remove layers that no image uses, as the disk gets full"):
            buildah.prune(layout)
    unbuilt = any(not buildah.has_image(layout, source.name) for source in PROJECT_IMAGES.values())
    machine.check(machine.facts(layout, builds_images=unbuilt))


def _build_project_image(layout: Layout, source: ImageSource, *, with_docker: bool) -> None:
    dockerfile = REPOSITORY / source.dockerfile
    if not dockerfile.exists():
        raise ClusterError(f"{source.dockerfile} is missing: image {source.name} cannot be built.")
    with staged(REPOSITORY, dockerfile, layout.scratch / f"context-{_file_name(source.name)}") as context:
        base = "docker" if with_docker else buildah.base_key()
        key = _combined(context.key, base)
        if _is_built(layout, source.name, key) and _has_image(layout, source.name, with_docker=with_docker):
            return
        with step(f"build {source.name}"):
            _build(layout, source.name, context, with_docker=with_docker)
        _note(layout, source.name, key)


def _has_image(layout: Layout, name: str, *, with_docker: bool) -> bool:
    return succeeds(["docker", "image", "inspect", name]) if with_docker else buildah.has_image(layout, name)


def _build(layout: Layout, name: str, context: Context, *, with_docker: bool) -> None:
    if with_docker:
        run(["docker", "build", "--file", context.dockerfile, "--tag", name, context.folder])
    else:
        buildah.build(layout, name, context, arguments={"BASE_IMAGE": buildah.BASE_IMAGE})


def build_cluster_images(layout: Layout) -> None:
    """Build the images of Kubernetes itself from the built tools, those that are stale."""
    with locked(layout.locks / "images"):
        buildah.ensure_base(layout)
        for name, tool in CLUSTER_IMAGES.items():
            key = cluster_image_key(tool)
            if not (_is_built(layout, name, key) and buildah.has_image(layout, name)):
                with step(f"image of {tool}"):
                    _build_cluster_image(layout, name, tool)
                _note(layout, name, key)


def cluster_image_key(tool: str) -> str:
    """Content key of the image that carries this tool."""
    return _combined(key_of(TOOLS[tool]), _cluster_dockerfile(tool), buildah.base_key())


def _cluster_dockerfile(tool: str) -> str:
    name = "kube-proxy.Dockerfile" if tool == "kube-proxy" else "binary.Dockerfile"
    return (SOURCES / "images" / name).read_text().replace("{tool}", tool)


def _build_cluster_image(layout: Layout, name: str, tool: str) -> None:
    dockerfile = layout.scratch / f"{tool}.Dockerfile"
    dockerfile.parent.mkdir(parents=True, exist_ok=True)
    dockerfile.write_text(_cluster_dockerfile(tool))
    with staged(layout.bin, dockerfile, layout.scratch / f"context-{tool}") as context:
        buildah.build(layout, name, context, arguments={"BASE_IMAGE": buildah.BASE_IMAGE})


def _stamp(layout: Layout, name: str) -> Path:
    return layout.keys / _file_name(name)


def _is_built(layout: Layout, name: str, key: str) -> bool:
    stamp = _stamp(layout, name)
    return stamp.exists() and stamp.read_text() == key


def _note(layout: Layout, name: str, key: str) -> None:
    layout.keys.mkdir(parents=True, exist_ok=True)
    _stamp(layout, name).write_text(key)


def _file_name(name: str) -> str:
    return name.replace("/", "-").replace(":", "-")


def _combined(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
