"""The records: what they accept, what they refuse, and how they look on the wire."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.pods import Resources
from finetune_api.run import Commit, FileEntry, RunLayout
from finetune_api.spec import Distributed, FineTuneJobSpec, Training
from finetune_api.status import Progress
from finetune_api.uris import S3Location, parse_s3

MINIMAL: dict[str, Any] = {
    "model": {"uri": "s3://models/base/"},
    "data": {"train": [{"uri": "s3://datasets/train.jsonl"}]},
    "training": {"epochs": 1},
    "checkpoint": {"uri": "s3://runs/job/"},
    "output": {"uri": "s3://models/job/"},
}


def test_minimal_spec_round_trips() -> None:
    spec = FineTuneJobSpec.model_validate(MINIMAL)

    assert FineTuneJobSpec.model_validate(spec.to_wire()) == spec
    assert spec.to_wire()["training"]["globalBatchSize"] == 64


@pytest.mark.parametrize("size", ["auto", 1, 4096])
def test_micro_batch_size_accepts(size: int | str) -> None:
    assert Training.model_validate({"microBatchSize": size}).micro_batch_size == size


@pytest.mark.parametrize("size", [0, 4097, "many", 1.5, None])
def test_micro_batch_size_refuses(size: object) -> None:
    with pytest.raises(ValidationError):
        Training.model_validate({"microBatchSize": size})


@pytest.mark.parametrize("stage", ["auto", 0, 1, 2, 3])
def test_zero_stage_accepts(stage: int | str) -> None:
    assert Distributed.model_validate({"zeroStage": stage}).zero_stage == stage


@pytest.mark.parametrize("stage", [-1, 4, "2", "off"])
def test_zero_stage_refuses(stage: object) -> None:
    with pytest.raises(ValidationError):
        Distributed.model_validate({"zeroStage": stage})


@pytest.mark.parametrize("amount", ["1", "1.5", "500m", "3Gi", "2k", 0, 8])
def test_amount_accepts(amount: int | str) -> None:
    assert Resources.model_validate({"limits": {"cpu": amount}}).limits == {"cpu": amount}


@pytest.mark.parametrize("amount", ["-1", "3GB", "1 Gi", "", -1, "1e3"])
def test_amount_refuses(amount: object) -> None:
    with pytest.raises(ValidationError):
        Resources.model_validate({"limits": {"cpu": amount}})


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="suspended"):
        FineTuneJobSpec.model_validate({**MINIMAL, "suspended": True})


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Progress(loss=float("nan"))


@given(step=st.integers(0, 10**9), total=st.integers(0, 10**9), percent=st.integers(0, 100))
def test_progress_says_itself_for_people(step: int, total: int, percent: int) -> None:
    progress = Progress(step=step, total_steps=total, percent=percent)

    assert (progress.percent_text, progress.step_text) == (f"{percent}%", f"{step}/{total}")
    assert Progress.model_validate(progress.to_wire()) == progress


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://bucket/key", S3Location("bucket", "key")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b/")),
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://my.bucket-1/", S3Location("my.bucket-1", "")),
    ],
)
def test_s3_uri_parts(uri: str, location: S3Location) -> None:
    assert parse_s3(uri) == location


@pytest.mark.parametrize(
    "uri", ["", "s3://", "s3://ab", "s3://Bucket/key", "https://bucket/key", "s3://-bucket/k", "x s3://b"]
)
def test_s3_uri_refused_with_the_form(uri: str) -> None:
    with pytest.raises(ValueError, match="write s3://bucket/key"):
        parse_s3(uri)


@given(prefix=st.sampled_from(["", "a", "a/", "a/b", "a/b/"]), name=st.sampled_from(["x", "x/y"]))
def test_child_has_one_slash_between(prefix: str, name: str) -> None:
    child = S3Location("bucket", prefix).child(name)

    assert child.key == "/".join(part for part in (prefix.rstrip("/"), name) if part)
    assert parse_s3(child.uri) == child


def test_run_layout_is_what_its_module_says() -> None:
    layout = RunLayout("s3://runs/job/", "uid-1")

    assert layout.prepared_manifest.uri == "s3://runs/job/uid-1/prepared/manifest.json"
    assert layout.prepared("w").uri == "s3://runs/job/uid-1/prepared/w"
    assert layout.commits.uri == "s3://runs/job/uid-1/commits"
    assert layout.commit(7).uri == "s3://runs/job/uid-1/commits/00000007.json"
    assert layout.bad_commit(7).uri == "s3://runs/job/uid-1/commits/00000007.bad.json"
    assert layout.data.uri == "s3://runs/job/uid-1/data"
    assert layout.shards(step=7, writer="a1-x").uri == "s3://runs/job/uid-1/data/00000007-a1-x"
    assert layout.metrics("a1-x").uri == "s3://runs/job/uid-1/metrics/a1-x.jsonl"
    assert layout.train_result.uri == "s3://runs/job/uid-1/results/train.json"


def test_commits_sort_by_step() -> None:
    layout = RunLayout("s3://runs/job", "uid-1")
    steps = [1, 9, 10, 99, 100, 12345678]

    assert sorted(steps, key=lambda step: layout.commit(step).key) == steps


def test_commit_knows_its_size() -> None:
    files = [FileEntry(key=f"k{size}", size=size, sha256="0" * 64) for size in (1, 2, 3)]
    commit = Commit.model_validate(
        {
            "writer": "a1-x",
            "attempt": 1,
            "step": 5,
            "worldSize": 1,
            "zeroStage": 0,
            "consumedSequences": 10,
            "time": "2026-01-01T00:00:00Z",
            "configDigest": "d",
            "files": files,
        }
    )

    assert commit.size_bytes == 6


def test_digest_must_be_sha256() -> None:
    with pytest.raises(ValidationError):
        FileEntry(key="k", size=1, sha256="abc")
