"""A full disk: how it is recognised, whose fault it is, and that the last word is told all the same."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import TERMINATION_LIMIT, StageInput, TerminationMessage
from finetune_trainer import full_disk
from finetune_trainer.full_disk import explain
from finetune_trainer.storage.scratch import NoSpaceError
from finetune_trainer.termination import write_last_word


def job_of(size_limit="1Mi"):
    spec = {
        "model": {"uri": "s3://models/m"},
        "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
        "training": {"epochs": 1},
        "checkpoint": {"uri": "s3://runs/c"},
        "output": {"uri": "s3://runs/o"},
        "storage": {"cache": {"sizeLimit": size_limit}},
    }
    return StageInput.model_validate({"name": "j", "namespace": "n", "uid": "u", "spec": spec})


def full(number=errno.ENOSPC):
    return OSError(number, os.strerror(number))


def write_to_a_full_disk():
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 100_000)


def save_to_a_full_disk():
    import torch

    torch.save({"weights": torch.zeros(100_000)}, "/dev/full")


def test_a_pod_within_its_limit_met_a_full_node_and_tries_again(tmp_path):
    (tmp_path / "model").write_bytes(b"x" * 4096)
    with pytest.raises(OSError) as caught:
        write_to_a_full_disk()
    failure = explain(caught.value, job_of(), tmp_path)
    assert (failure.code, failure.reason) == (1, Reason.SCRATCH_FULL)
    assert "within spec.storage.cache.sizeLimit 1Mi, but there is no room left" in failure.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_pod_beyond_its_limit_fails_for_good(tmp_path, number):
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged/shard").write_bytes(b"x" * 2**21)
    failure = explain(full(number), job_of(), tmp_path)
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.SCRATCH_FULL)
    assert "spec.storage.cache.sizeLimit is 1Mi; raise it" in failure.message


def test_what_was_about_to_be_fetched_counts_too(tmp_path):
    lack = NoSpaceError(tmp_path, needed=2**21, free=100)
    assert explain(lack, job_of(), tmp_path).code == ExitCode.INVALID
    assert explain(lack, job_of("1Gi"), tmp_path).code == 1


def test_the_cause_is_looked_for_behind_other_errors(tmp_path):
    error = ValueError("shard 3 was not written")
    error.__cause__ = RuntimeError("upload failed")
    error.__cause__.__context__ = full()
    assert explain(error, job_of(), tmp_path).reason is Reason.SCRATCH_FULL


def test_libraries_that_hide_the_cause_are_seen_through_by_the_disk(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError) as caught:
        save_to_a_full_disk()
    assert explain(caught.value, job_of(), tmp_path) is None
    monkeypatch.setattr(full_disk, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert explain(caught.value, job_of(), tmp_path).reason is Reason.SCRATCH_FULL


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), RuntimeError("a bug")])
def test_other_errors_are_no_lack_of_space(tmp_path, error):
    assert explain(error, job_of(), tmp_path) is None
    assert explain(error, job_of(), tmp_path / "absent") is None


def test_a_last_word_takes_the_place_that_was_kept_for_it(tmp_path):
    path = tmp_path / "rank-0.json"
    path.write_bytes(b" " * TERMINATION_LIMIT)
    before = path.stat().st_ino
    word = TerminationMessage(reason=Reason.SCRATCH_FULL, message="the disk of the node is full")
    write_last_word(path, word)
    assert path.stat().st_ino == before
    assert TerminationMessage.model_validate_json(path.read_bytes()) == word
    assert path.stat().st_size < TERMINATION_LIMIT
