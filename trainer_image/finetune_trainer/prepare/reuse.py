"""Prepared rows of another run that are the same: found by a key of all that decides over them.

The key is the SHA-256 of the files (place, size and etag), the tokenizer with its chat template, `spec.data`, and
what else a row's tokens follow from. `<spec.checkpoint.uri>/cache/<key>.json` names the files of the run that encoded
them first. They are copied, not referred to, and verified by their digests on the way: every run has all of its data
below its own prefix, so deleting one never harms another. If that first run was deleted, rows are encoded anew.
"""

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from finetune_api.run import FileEntry, ReusableRows
from finetune_api.spec import FineTuneJobSpec
from finetune_api.uris import S3Location, parse_s3
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.sources import SourceFile
from finetune_trainer.storage import Store
from finetune_trainer.storage.digest import sha256_of_file

ENCODING = 5
"""To be raised whenever the same rows become other tokens, other rows are chosen, or more is told of them."""
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "datasketch", "phonenumbers", "python-stdnum")
_WITHOUT_EFFECT = {"packing"}
"""Fields of spec.data that decide over nothing that is stored."""


def key_of(
    spec: FineTuneJobSpec, files: Sequence[SourceFile], *, tokenizer: Path, row_limit: int, vocabulary: int
) -> str:
    """Return the key of a job's rows; `tokenizer` is the folder that was made for it."""
    parts = {
        "encoding": ENCODING,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "tokenizer": _digests(tokenizer),
        "objective": spec.objective,
        "data": {name: value for name, value in spec.data.to_wire().items() if name not in _WITHOUT_EFFECT},
        "files": [[file.source.number, file.location.uri, file.info.size, file.info.etag] for file in files],
        "rowLimit": row_limit,
        "vocabulary": vocabulary,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digests(directory: Path) -> dict[str, str]:
    """Return the digests of all files below a folder: chat templates for tools have a folder of their own."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_of_file(path) for path in paths}


class ReusableCache:
    """The place of the rows with one key."""

    def __init__(self, store: Store, spec: FineTuneJobSpec, key: str) -> None:
        self._store = store
        self._place = parse_s3(spec.checkpoint.uri).child(f"cache/{key}.json")

    def fetch(self, directory: Path) -> ReusableRows | None:
        """Download the rows into a folder; None: there are none, or not all of them are there any more."""
        found = self._store.read_if_there(self._place)
        if found is None:
            return None
        try:
            rows = ReusableRows.model_validate_json(found)
            prefix = f"{rows.prefix}/"
            self._store.download_all(rows.files, bucket=self._place.bucket, directory=directory, strip_prefix=prefix)
        except (StageFailure, ValidationError) as error:
            log.warning("prepared-rows-not-reusable", record=self._place.uri, cause=str(error))
            shutil.rmtree(directory, ignore_errors=True)
            self._store.delete([self._place])  # so that this run can offer its own
            return None
        log.info("prepared-rows-reused", record=self._place.uri, writer=rows.writer)
        return rows

    def offer(self, rows: ReusableRows) -> None:
        """Tell of rows that were uploaded, unless another run has."""
        text = rows.model_dump_json(by_alias=True, exclude_none=True).encode()
        self._store.put_new(self._place, text, writer=rows.writer)


def reusable(files: Sequence[FileEntry], prefix: S3Location) -> list[FileEntry]:
    """Return the files of a run's prepared rows that another run may take: all but the tokenizer, which it makes."""
    return [entry for entry in files if not entry.key.startswith(f"{prefix.key}/tokenizer/")]
