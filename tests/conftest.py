"""Fixtures that every tier shares: the servers on loopback, a tiny random model on disk, and a job whose model and
rows lie on the S3 server."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sharing import FilesAndCluster
from tiny_model import write_tiny_model, write_tiny_tokenizer

from finetune_loopback.fixtures import crd_installed, kube_api, s3_server
from finetune_loopback.mounts import lay_out_mounts

if TYPE_CHECKING:
    from xdist.remote import Producer

    from finetune_api.stage import StageInput
    from finetune_loopback.s3_server import S3Server
    from finetune_trainer.storage import Store

__all__ = ["crd_installed", "kube_api", "s3_server"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> FilesAndCluster | None:
    """Share out files where files are shared out; else as xdist does."""
    return FilesAndCluster(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with config, generation config, tokenizer with chat template, and weights of a tiny Llama."""
    directory = tmp_path_factory.mktemp("tiny-model")
    write_tiny_tokenizer(directory)
    write_tiny_model(directory)
    return directory


@dataclass(frozen=True)
class S3Job:
    """A job whose model, rows and results lie under a prefix of its own; the stages run in this process."""

    server: "S3Server"
    store: "Store"
    bucket: str
    uid: str
    """Its prefix in the bucket too: SeaweedFS has room for few buckets."""

    def uri(self, key: str) -> str:
        """Return the URI of a key below the job's prefix."""
        return f"s3://{self.bucket}/{self.uid}/{key}"

    def put(self, key: str, content: bytes) -> None:
        """Put an object."""
        self.server.client().put_object(Bucket=self.bucket, Key=f"{self.uid}/{key}", Body=content)

    def put_rows(self, key: str, rows: Iterable[dict[str, Any]]) -> None:
        """Put rows as JSON lines."""
        self.put(key, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below a prefix."""
        listed = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=f"{self.uid}/{prefix}")
        return [item["Key"].removeprefix(f"{self.uid}/") for item in listed.get("Contents", [])]

    def stage_input(self, *, memory_limit_bytes: int | None = None, **spec: Any) -> "StageInput":
        """Return the input of a stage: `spec` merged, block by block, into a job for one CPU process."""
        from finetune_api.stage import StageInput

        s3 = {"endpoint": self.server.endpoint, "credentialsSecretRef": {"name": "s3"}}
        blocks: dict[str, Any] = {
            "model": {"uri": self.uri("model/")},
            "data": {"train": [{"uri": self.uri("rows/train.jsonl")}], "maxLength": 256},
            "training": {"epochs": 1, "globalBatchSize": 4, "precision": "fp32"},
            "distributed": {"device": "cpu"},
            "checkpoint": {"uri": self.uri("runs/")},
            "output": {"uri": self.uri("output/")},
            "storage": {"s3": s3},
        }
        for name, values in spec.items():
            blocks[name] = {**blocks.get(name, {}), **values} if isinstance(values, dict) else values
        return StageInput.model_validate(
            {
                "name": "tiny",
                "namespace": "test",
                "uid": self.uid,
                "memoryLimitBytes": memory_limit_bytes,
                "spec": blocks,
            }
        )


@pytest.fixture(scope="session")
def jobs_bucket(s3_server: "S3Server") -> str:
    """Return the bucket of all jobs of the session."""
    return s3_server.make_bucket("jobs")


@pytest.fixture
def s3_job(
    s3_server: "S3Server", jobs_bucket: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> S3Job:
    """Return a job whose prefix holds the tiny model; rows are for the test to put."""
    from finetune_api.spec import S3Storage
    from finetune_trainer.storage import RetryBudget, open_s3

    monkeypatch.setenv("FINETUNE_MOUNTS", str(lay_out_mounts(tmp_path / "mounts", s3_server.credentials_file)))
    monkeypatch.setenv("FINETUNE_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("FINETUNE_POD_UID", str(uuid.uuid4()))
    settings = S3Storage.model_validate({"endpoint": s3_server.endpoint, "credentialsSecretRef": {"name": "s3"}})
    store = open_s3(settings, RetryBudget(seconds=20, first_contact=5))
    job = S3Job(s3_server, store, jobs_bucket, str(uuid.uuid4()))
    for path in tiny_model.iterdir():
        job.put(f"model/{path.name}", path.read_bytes())
    return job
