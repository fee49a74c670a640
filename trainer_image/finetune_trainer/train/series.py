"""Series in S3 of one attempt: every logged step, every answer to a sample prompt."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store

_FAREWELL_SECONDS = 10.0


class MetricsSeries:
    """A local file of JSON lines, uploaded whole from a thread at commits."""

    def __init__(self, path: Path, store: Store, location: S3Location) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._store = store
        self._location = location
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._upload: Future[None] | None = None

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def upload(self) -> None:
        """Upload the series, unless an upload is under way; the next one then carries all."""
        if self._path.exists() and (self._upload is None or self._upload.done()):
            self._upload = self._thread.submit(self._put)

    def close(self) -> None:
        """Upload what is new, and wait a little for it."""
        if self._upload is not None:
            _wait(self._upload)
        self.upload()
        if self._upload is not None:
            _wait(self._upload)
        self._thread.shutdown(wait=False)

    def _put(self) -> None:
        try:
            self._store.put(self._location, self._path.read_bytes())
        except StageFailure as failure:
            log.warning("metrics-not-uploaded", file=self._path.name, cause=failure.message)


def _wait(upload: Future[None]) -> None:
    try:
        upload.result(_FAREWELL_SECONDS)
    except TimeoutError:
        log.warning("metrics-not-uploaded", cause=f"not done within {_FAREWELL_SECONDS:.0f} s")
