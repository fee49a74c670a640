"""First contact with the storage: every bucket that the job names, and the place of its result."""

from finetune_api.run import MANIFEST
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput
from finetune_api.uris import parse_s3
from finetune_trainer.export.place import Place
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
    place = Place(job, store)
    place.require_free()
    place.require_writable()


def _uris(spec: FineTuneJobSpec) -> list[str]:
    sources = [*spec.data.train, *spec.data.validation, *spec.data.test]
    sources += spec.data.replay.sources if spec.data.replay else []
    adapter = spec.method.initial_adapter
    begun = [spec.model.uri] if adapter is None else [spec.model.uri, adapter.uri]
    return [*begun, *(source.uri for source in sources), spec.checkpoint.uri, spec.output.uri]
