"""Sources: from the URIs of a list to the files that hold its rows, in a fixed order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import DataSource
from finetune_api.uris import S3Location, parse_s3
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.problems import invalid_data
from finetune_trainer.prepare.readers import READERS, Row, ending_of, read_file
from finetune_trainer.storage import Store

_ENDINGS = ", ".join(READERS)


def find_files(store: Store, sources: Sequence[DataSource]) -> list[S3Location]:
    """Return the files of a list of sources. Raises StageFailure when one names no rows."""
    return [file for source in sources for file in _files_of(store, parse_s3(source.uri))]


def _files_of(store: Store, location: S3Location) -> list[S3Location]:
    if location.key and not location.key.endswith("/"):
        return [_single(store, location)]
    keys = sorted(info.key for info in store.list(location) if info.size and ending_of(info.key) in READERS)
    if not keys:
        raise invalid_data(f"{location.uri} holds no rows: there is no file ending in {_ENDINGS} below it")
    return [S3Location(location.bucket, key) for key in keys]


def _single(store: Store, location: S3Location) -> S3Location:
    if not store.exists(location):
        hint = "; it is a folder: write it with a trailing /" if store.list(location) else ""
        raise StageFailure(ExitCode.INVALID, Reason.OBJECT_NOT_FOUND, f"{location.uri} does not exist{hint}")
    if ending_of(location.key) not in READERS:
        raise invalid_data(f"{location.uri}: rows are read from files ending in {_ENDINGS}")
    return location


def read_rows(store: Store, files: Sequence[S3Location], scratch: Path) -> Iterator[Row]:
    """Yield the rows of files; one file at a time lies in the folder `scratch`."""
    for number, file in enumerate(files):
        path = scratch / f"rows-{number}{ending_of(file.key)}"
        entry = store.download(file, path)
        log.info("reading-rows", uri=file.uri, bytes=entry.size)
        try:
            yield from read_file(path, file.uri)
        finally:
            path.unlink()
