"""Publishing the result: all files, and last the manifest that makes them one.

Before training began, nothing stood at these names (the prepare stage checked it); what stands there without a
manifest is from an earlier try of this stage, and is written again.
"""

from collections.abc import Sequence
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import MANIFEST, FileEntry, OutputManifest
from finetune_api.status import OutputResult
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store
from finetune_trainer.storage.digest import sha256_of

ADAPTER, MERGED, PREDICTIONS, CARD = "adapter", "merged", "predictions.jsonl", "README.md"
NAMES = (f"{ADAPTER}/", f"{MERGED}/", PREDICTIONS, CARD)
"""What a result may consist of, beside its manifest."""


def find_result(store: Store, output: S3Location, uid: str) -> OutputManifest | None:
    """Return the manifest if the job's result is published already. Raises StageFailure when another job's is."""
    location = output.child(MANIFEST)
    if not store.exists(location):
        return None
    manifest = OutputManifest.model_validate_json(store.read(location))
    if manifest.uid != uid:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.OUTPUT_EXISTS,
            f"{location.uri} was written by job {manifest.job} (uid {manifest.uid}) while this one trained; nothing"
            " is overwritten: give each job an output of its own",
        )
    return manifest


def upload(store: Store, directory: Path, output: S3Location) -> Sequence[FileEntry]:
    """Upload the folder of the result."""
    return store.upload_all(directory, output)


def publish(store: Store, output: S3Location, manifest: OutputManifest) -> OutputManifest:
    """Put the manifest. Raises StageFailure when another job has put one in the meantime."""
    if store.put_new(output.child(MANIFEST), _wire(manifest), writer=manifest.uid):
        return manifest
    other = find_result(store, output, manifest.uid)
    assert other is not None  # noqa: S101 - it made our conditional put fail
    return other


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
        step=manifest.step,
        digest=sha256_of(_wire(manifest)),
    )


def _wire(manifest: OutputManifest) -> bytes:
    return (manifest.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n").encode()
