"""Loading images into a running node's containerd without copying them.

An overlay layer of buildah's store is, file for file, what containerd's overlay snapshotter keeps for the same layer.
So a layer the node lacks is prepared as a snapshot, filled with hard links and committed under its chain identity;
then a small archive of index, manifest and configuration gives the image its name. Seven gigabytes cost seconds and
are on the disk once, however many nodes there are. Layer archives are never made: containerd does not need them to
run an image, only to push one.
"""

import hashlib
import io
import json
import shutil
import tarfile

from .buildah import Layer, StoredImage
from .layout import Layout
from .node import ctr
from .process import ClusterError, run
from .topology import Node

GC_ROOT = "containerd.io/gc.root"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """OCI chain identity of each layer from the base up."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(_digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def load(layout: Layout, node: Node, image: StoredImage) -> bool:
    """Make ``image`` available on ``node``; return whether anything had to be done."""
    manifest = _manifest(image)
    if _present_digest(node, image.name) == _digest(manifest):
        return False
    chain = chain_ids([layer.diff_id for layer in image.layers])
    present = set(ctr(node, "snapshots", "ls").split())
    added = []
    for parent, identity, layer in zip(["", *chain], chain, image.layers, strict=False):
        if identity not in present:
            if _key(identity) in present:
                # Left by a load that was broken off.
                ctr(node, "snapshots", "rm", _key(identity))
            _add_snapshot(layout, node, parent=parent, identity=identity, layer=layer)
            added.append(identity)
    archive = _metadata_archive(image.name, manifest, image.configuration)
    ctr(node, "images", "import", "-", stdin=archive)
    for identity in added:
        # From here on the image holds its layers: when it is replaced they may go.
        ctr(node, "snapshots", "label", identity, f"{GC_ROOT}=")
    return True


def _present_digest(node: Node, name: str) -> str | None:
    for line in ctr(node, "images", "ls", f"name=={name}").splitlines()[1:]:
        return line.split()[2]
    return None


def _key(identity: str) -> str:
    return f"load-{identity}"


def _add_snapshot(layout: Layout, node: Node, *, parent: str, identity: str, layer: Layer) -> None:
    key = _key(identity)
    mounts = json.loads(ctr(node, "snapshots", "prepare", "--mounts", key, *([parent] if parent else [])))
    target = layout.node(node.name) / writable_folder(mounts).lstrip("/")
    # The host's path of the node's folder: a hard link cannot cross a bind mount.
    run(["cp", "--archive", "--link", f"{layer.files}/.", target])
    shutil.copystat(layer.files, target)
    ctr(node, "snapshots", "commit", identity, key)


def writable_folder(mounts: list[dict[str, object]]) -> str:
    """The folder, as containerd sees it, that takes the writes of a prepared snapshot.

    A first layer is a bind mount of it, a later one an overlay that names it. Raises ClusterError for anything else.
    """
    mount = mounts[0] if len(mounts) == 1 else {}
    options = mount.get("Options")
    if mount.get("Type") == "bind":
        return str(mount["Source"])
    for option in options if isinstance(options, list) else ():
        if str(option).startswith("upperdir="):
            return str(option).removeprefix("upperdir=")
    raise ClusterError(f"containerd's snapshots are not overlays ({mounts}): put the state folder on ext4 or xfs.")


def _manifest(image: StoredImage) -> bytes:
    layers = [{"mediaType": LAYER_TYPE, "digest": layer.diff_id, "size": 0} for layer in image.layers]
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, image.configuration),
        "layers": layers,
    }
    return json.dumps(content, sort_keys=True).encode()


def _metadata_archive(name: str, manifest: bytes, configuration: bytes) -> bytes:
    entry = {**_descriptor(MANIFEST_TYPE, manifest), "annotations": {"io.containerd.image.name": name}}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    for blob in (manifest, configuration):
        files[f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"] = blob
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
