"""Image layers: identities, the store's chain, and where containerd wants a layer's files."""

from typing import Any

import pytest
from finetune_cluster.buildah import layer_chain
from finetune_cluster.images import CLUSTER_IMAGES, chosen
from finetune_cluster.loader import chain_ids, writable_folder
from finetune_cluster.process import ClusterError


def test_chain_identity_is_that_of_the_image_specification() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    # printf '%s %s' "$a" "$b" | sha256sum
    assert chain_ids([a, b]) == [a, "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"]
    assert chain_ids([]) == []


def test_layer_chain_goes_from_the_base_up() -> None:
    layers = [
        {"id": "top", "parent": "middle", "diff-digest": "3"},
        {"id": "base", "diff-digest": "1"},
        {"id": "middle", "parent": "base", "diff-digest": "2"},
        {"id": "other", "parent": "base", "diff-digest": "4"},
    ]
    assert layer_chain(layers, "top") == [("base", "1"), ("middle", "2"), ("top", "3")]


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([{"Type": "bind", "Source": "/r/snapshots/1/fs", "Options": ["rw", "rbind"]}], "/r/snapshots/1/fs"),
        ([{"Type": "overlay", "Options": ["workdir=/w", "upperdir=/u/fs", "lowerdir=/l"]}], "/u/fs"),
    ],
)
def test_writable_folder(mounts: list[dict[str, Any]], expected: str) -> None:
    assert writable_folder(mounts) == expected


@pytest.mark.parametrize("mounts", [[], [{"Type": "overlay", "Options": ["lowerdir=/l"]}], [{"Type": "zfs"}]])
def test_other_snapshotters_are_refused(mounts: list[dict[str, Any]]) -> None:
    with pytest.raises(ClusterError, match="not overlays"):
        writable_folder(mounts)


def test_images_are_chosen_by_name() -> None:
    assert [source.name for source in chosen(["trainer"])] == ["localhost/finetune-trainer:dev"]
    assert len(chosen([])) == 3
    with pytest.raises(ClusterError, match="No such image: web; the images are s3, operator, trainer"):
        chosen(["web"])


def test_every_cluster_image_is_local() -> None:
    assert all(name.startswith("localhost/kubernetes/") for name in CLUSTER_IMAGES)
