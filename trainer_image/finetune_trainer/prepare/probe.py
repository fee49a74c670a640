"""First contact with the storage: every bucket that the job names, and the place of its result."""

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import MANIFEST, OutputManifest
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_api.uris import S3Location, parse_s3
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.publish import NAMES
from finetune_trainer.storage import Store


def probe(job: StageInput, store: Store) -> None:
    """Raise StageFailure when a bucket cannot be reached, or the result cannot or must not be written."""
    asked = set()
    for uri in _uris(job.spec):
        location = parse_s3(uri)
        if location.bucket not in asked:
            asked.add(location.bucket)
            # A whole bucket has no key to ask for.
            store.exists(location if location.key else location.child(MANIFEST))
    check_output(job, store)


def _uris(spec: FineTuneJobSpec) -> list[str]:
    sources = [*spec.data.train, *spec.data.validation, *spec.data.test]
    return [spec.model.uri, *(source.uri for source in sources), spec.checkpoint.uri, spec.output.uri]


def check_output(job: StageInput, store: Store) -> None:
    """Raise StageFailure when something stands where the result goes, or it may not be written there.

    Better told now than after the training that it would waste.
    """
    output = parse_s3(job.spec.output.uri)
    if _is_ours(job, store, output.child(MANIFEST)):
        return
    for name in (MANIFEST, *NAMES):
        place = output.child(name)
        if store.list(place) if name.endswith("/") else store.exists(place):
            raise StageFailure(
                ExitCode.INVALID,
                Reason.OUTPUT_EXISTS,
                f"{place.uri} exists already and is not of this job; nothing is overwritten:"
                " set spec.output.uri to an empty prefix, or remove what stands there",
            )
    trial = output.child(f".write-test-{job.uid}")
    store.put(trial, b"")
    store.delete([trial])


def _is_ours(job: StageInput, store: Store, manifest: S3Location) -> bool:
    if not store.exists(manifest):
        return False
    try:
        return OutputManifest.model_validate_json(store.read(manifest)).uid == job.uid
    except ValidationError:
        return False
