"""Sources: from the URIs of a list to the files that hold its rows, in a fixed order."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.uris import S3Location, parse_s3
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.problems import invalid_data
from finetune_trainer.prepare.readers import READERS, ending_of
from finetune_trainer.storage import ObjectInfo, Store

ListName = Literal["test", "validation", "train", "replay"]
LISTS: tuple[ListName, ...] = ("test", "validation", "train", "replay")
"""In the order they are read, which is that of precedence: of a row that several have, the first one's stays."""
_JSON = (".json", ".json.gz", ".json.zst")
_PLAIN = [ending for ending in READERS if ending.count(".") == 1]
"""Compressed ones are left out: those of text may have one more ending."""
_ENDINGS, _ENDINGS_BELOW = ", ".join(_PLAIN), ", ".join(ending for ending in _PLAIN if ending not in _JSON)


class Source(NamedTuple):
    """One source of rows."""

    number: int
    """Among all sources of the job, in the order they are read."""
    part_of: ListName
    uri: str
    weight: float = 1.0


class SourceFile(NamedTuple):
    """One file of a source, as it was when the stage began."""

    source: Source
    location: S3Location
    info: ObjectInfo


def find_files(store: Store, source: Source) -> list[SourceFile]:
    """Return the files of a source. Raises StageFailure when it names no rows.

    Files of JSON below a prefix describe a data set more often than they hold its rows.
    """
    location = parse_s3(source.uri)
    if location.key and not location.key.endswith("/"):
        return [SourceFile(source, location, _single(store, location))]
    every = [info for info in store.list(location) if info.size and ending_of(info.key) in READERS]
    found = [info for info in every if ending_of(info.key) not in _JSON]
    if not found:
        raise invalid_data(
            f"{location.uri} holds no rows: there is no file ending in {_ENDINGS_BELOW} below it"
            + ("; a .json file is read where its own URI is given" if every else "")
        )
    infos = sorted(found, key=lambda info: info.key)
    return [SourceFile(source, S3Location(location.bucket, info.key), info) for info in infos]


def _single(store: Store, location: S3Location) -> ObjectInfo:
    info = store.stat(location)
    if info is None:
        hint = "; it is a folder: write it with a trailing /" if store.list(location) else ""
        raise StageFailure(ExitCode.INVALID, Reason.OBJECT_NOT_FOUND, f"{location.uri} does not exist{hint}")
    if ending_of(location.key) not in READERS:
        raise invalid_data(f"{location.uri}: rows are read from files ending in {_ENDINGS}")
    return info


def fetch(store: Store, files: Sequence[SourceFile], scratch: Path) -> Iterator[tuple[SourceFile, Path]]:
    """Yield files with their local copies; one at a time lies in the folder `scratch`."""
    for number, file in enumerate(files):
        path = scratch / f"rows-{number}{ending_of(file.location.key)}"
        entry = store.download(file.location, path)
        log.info("reading-rows", uri=file.location.uri, bytes=entry.size)
        try:
            yield file, path
        finally:
            path.unlink()
