"""Publishing the result: all files, and last the manifest that makes them one."""

from collections.abc import Sequence
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import MANIFEST, FileEntry, OutputManifest
from finetune_api.status import OutputResult
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.place import ADAPTER, MERGED, PREDICTIONS, Place
from finetune_trainer.storage import Store
from finetune_trainer.storage.digest import sha256_of


def upload(store: Store, directory: Path, place: Place) -> Sequence[FileEntry]:
    """Upload the folder of the result. Raises StageFailure when something of another stands there."""
    place.claim()
    return store.upload_all(directory, place.output)


def publish(store: Store, place: Place, manifest: OutputManifest) -> OutputManifest:
    """Put the manifest and return the one that stands: that of another pod of this run, if it was first.

    Raises StageFailure when another job, or an earlier run of this one, has put one in the meantime.
    """
    if not store.put_new(place.output.child(MANIFEST), _wire(manifest), writer=manifest.uid):
        place.require_free()
        standing = place.result()
        if standing is None:
            raise StageFailure(
                ExitCode.STORAGE,
                Reason.STORAGE_FAILED,
                f"a pod of an earlier run of this job wrote to {place.output.uri} meanwhile; it is tried again",
            )
        manifest = standing
    place.release()
    return manifest


def output_result(output: S3Location, manifest: OutputManifest) -> OutputResult:
    """Return what the job's status says of a result."""
    names = {entry.key.removeprefix(output.child("").key) for entry in manifest.files}

    def uri(name: str) -> str | None:
        return output.child(name).uri if any(found.startswith(name) for found in names) else None

    return OutputResult(
        uri=output.uri,
        adapter_uri=uri(f"{ADAPTER}/"),
        merged_uri=uri(f"{MERGED}/"),
        predictions_uri=uri(PREDICTIONS),
        merge_gap=manifest.merge_gap,
        step=manifest.step,
        digest=sha256_of(_wire(manifest)),
    )


def _wire(manifest: OutputManifest) -> bytes:
    return (manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n").encode()
