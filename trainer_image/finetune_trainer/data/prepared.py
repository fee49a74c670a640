"""The result of the prepare stage, as the later stages fetch it: every object checked against its digest.

Local layout below the folder that a stage names, the same in the prepare pod that uploads it:

    cache/<split>.*        the token cache (`cache.py`), and where its rows come from (`places.py`)
    tokenizer/             the tokenizer with the chat template that was used
    test.jsonl             the test rows with all their columns, one line per row of the test split's cache; of a
                           document that was cut into several rows, one line in all; of a conversation whose end
                           was cut off, up to the last answer that was begun
"""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Prepared, RunLayout
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import parse_s3
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store


@dataclass(frozen=True)
class PreparedFiles:
    """The prepared data in a local folder."""

    record: Prepared
    directory: Path

    @property
    def cache(self) -> Path:
        """Folder of the token cache."""
        return self.directory / "cache"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.directory / "tokenizer"

    @property
    def test_rows(self) -> Path:
        """Test rows, JSON lines."""
        return self.directory / "test.jsonl"


def find_prepared(store: Store, layout: RunLayout) -> Prepared | None:
    """Return what a prepare pod of this run has published, or None."""
    if not store.exists(layout.prepared_manifest):
        return None
    return Prepared.model_validate_json(store.read(layout.prepared_manifest))


def fetch_prepared(store: Store, layout: RunLayout, directory: Path) -> PreparedFiles:
    """Download the prepared data. Raises StageFailure when there is none or its digests do not match."""
    record = find_prepared(store, layout)
    if record is None:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.OBJECT_NOT_FOUND,
            f"{layout.prepared_manifest.uri} does not exist, so this run has no prepared data;"
            " was it deleted? Create the job anew",
        )
    prefix = layout.prepared(record.writer)
    store.download_all(record.files, bucket=prefix.bucket, directory=directory, strip_prefix=f"{prefix.key}/")
    return PreparedFiles(record, directory)


def fetch_model(store: Store, uri: str, prepared: Prepared, directory: Path, *, weights: bool = True) -> Path:
    """Download the base model as the prepare stage saw it; a model changed since then does not match its digest.

    Without `weights`, only its configuration and tokenizer files.
    """
    location = parse_s3(uri)
    prefix = f"{location.key.rstrip('/')}/" if location.key else ""
    wanted = [entry for entry in prepared.model_files if weights or not entry.key.endswith(".safetensors")]
    store.download_all(wanted, bucket=location.bucket, directory=directory, strip_prefix=prefix)
    return directory


def fetch_adapter(store: Store, prepared: Prepared, directory: Path, *, spec: FineTuneJobSpec) -> None:
    """Download the adapter that is trained further, if there is one, as the prepare stage saw it."""
    if spec.method.initial_adapter is not None:
        location = parse_s3(spec.method.initial_adapter.uri)
        prefix = f"{location.key.rstrip('/')}/" if location.key else ""
        store.download_all(prepared.adapter_files, bucket=location.bucket, directory=directory, strip_prefix=prefix)
