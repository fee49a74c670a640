"""The uploader process goes on while the training does not look at it."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.run import RunLayout
from finetune_api.spec import S3Storage
from finetune_trainer.checkpoint import CheckpointWriter, CommitMeta, WriterSettings, uploader, writer

SIGNS = 1000
SECONDS = 60.0
S3 = S3Storage.model_validate({"credentialsSecretRef": {"name": "s3"}})
# Only rank 0 would ask the store for more than an upload.
SETTINGS = WriterSettings(S3, RunLayout("s3://bucket/runs", "run"), "a1-x", 1, 2, attempt=1, keep_last=1, keep_best=1)
META = CommitMeta(zero_stage=1, consumed_sequences=1, config_digest="c")


class TricklingStore:
    """Sends a folder in many pieces."""

    def upload_all(self, _folder: Path, _prefix: object, on_bytes: Any) -> list[Any]:
        for _ in range(SIGNS):
            on_bytes(1)
        return []

    def put(self, *_: object) -> None:
        pass


def trickling_uploader(*arguments: Any) -> None:
    """Be an uploader to whom a second passes between any two pieces."""
    uploader.time = SimpleNamespace(monotonic=itertools.count().__next__)  # type: ignore[assignment]
    uploader.open_s3 = lambda *_: TricklingStore()  # type: ignore[assignment,return-value]
    uploader.run_uploader(*arguments)


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while folder.exists():
        assert time.monotonic() < deadline, "the upload stands still"
        time.sleep(0.05)


def test_an_upload_ends_though_nobody_looks_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "run_uploader", trickling_uploader)
    made = CheckpointWriter(SETTINGS)
    folder = tmp_path / "step"
    folder.mkdir()
    try:
        assert made.submit(1, folder, META)
        wait_until_gone(folder)  # the uploader deletes it at the end of the save
        assert made.drain(SECONDS)
        assert (made.failed, made.signs) == (0, SIGNS + 1)
    finally:
        made.close()
