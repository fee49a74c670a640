"""The entry point: every way out of a stage has an exit code and a last word."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import StageInput, TerminationMessage
from finetune_trainer import __main__ as entry
from finetune_trainer import log
from finetune_trainer.errors import StageFailure, StopRequested, WorkersFailed
from finetune_trainer.stage_input import read_pod
from finetune_trainer.storage import Store

SPEC = {
    "model": {"uri": "s3://models/m"},
    "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
    "training": {"epochs": 1},
    "checkpoint": {"uri": "s3://runs/c"},
    "output": {"uri": "s3://runs/o"},
    "storage": {"s3": {"endpoint": "http://127.0.0.1:9", "credentialsSecretRef": {"name": "s3"}}},
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a pod, set for this process and its children."""
    job = StageInput.model_validate({"name": "j", "namespace": "n", "uid": "u", "spec": SPEC})
    (tmp_path / "mounts/s3").mkdir(parents=True)
    (tmp_path / "mounts/s3/credentials").write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    variables = {
        "FINETUNE_JOB": job.model_dump_json(by_alias=True),
        "FINETUNE_TERMINATION_LOG": str(tmp_path / "last-word"),
        "FINETUNE_WORK_DIR": str(tmp_path / "work"),
        "FINETUNE_MOUNTS": str(tmp_path / "mounts"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(log, "_bound", {})
    return variables


Stage = Callable[[StageInput, Store], TerminationMessage]


def run_with(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> tuple[int, TerminationMessage]:
    monkeypatch.setattr(entry, "import_module", lambda name: SimpleNamespace(run=stage))
    return entry.run_stage("prepare")


def raising(error: BaseException) -> Stage:
    def stage(job: StageInput, store: Store) -> TerminationMessage:
        raise error

    return stage


LAST = TerminationMessage(reason=Reason.CRASHED, message="rank 1 is gone")
ENDS = [
    (StageFailure(ExitCode.INVALID, Reason.INVALID_DATA, "bad row"), 64, Reason.INVALID_DATA, "bad row"),
    (StageFailure(ExitCode.DIVERGED, Reason.DIVERGED, "x" * 9000), 77, Reason.DIVERGED, "x" * 1499 + "…"),
    (StageFailure(ExitCode.STORAGE, Reason.STORAGE_FAILED, "at http://u:p@h"), 76, Reason.STORAGE_FAILED, None),
    (WorkersFailed(139, LAST), 139, Reason.CRASHED, "rank 1 is gone"),
    (StopRequested(), 75, Reason.STOPPED, None),
    (KeyError("weights"), 1, Reason.CRASHED, "KeyError: 'weights'"),
    (ValueError("AKIAIOSFODNN7EXAMPLE"), 1, Reason.CRASHED, "ValueError: [redacted]"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, Reason.SCRATCH_FULL, None),
]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("error", "code", "reason", "message"), ENDS)
def test_every_failure_has_a_code_and_a_last_word(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, reason: Reason, message: str | None
) -> None:
    ended, word = run_with(raising(error), monkeypatch)
    assert (ended, word.reason) == (code, reason)
    assert message is None or word.message == message
    assert "u:p" not in word.message


@pytest.mark.usefixtures("environment")
def test_a_stage_that_succeeds_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    word = TerminationMessage(reason=Reason.SUCCEEDED, message="done")
    assert run_with(lambda job, store: word, monkeypatch) == (0, word)


BAD_JOBS = [
    ("", "FINETUNE_JOB is not set"),
    ("{", "FINETUNE_JOB: "),
    ('{"name": "j", "newField": 1}', "operator and trainer image must be of the same release"),
]


@pytest.mark.parametrize(("job", "message"), BAD_JOBS)
def test_a_job_that_cannot_be_read_is_told(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, job: str, message: str
) -> None:
    monkeypatch.setenv("FINETUNE_JOB", job)
    ended, word = run_with(lambda job, store: LAST, monkeypatch)
    assert (ended, word.reason) == (64, Reason.INVALID_SPEC)
    assert message in word.message


# A stage that waits in the midst of a request, so that SIGTERM meets the HTTP library.
WAITING = """
import sys, types
from pathlib import Path
from finetune_api.uris import S3Location
from finetune_trainer import __main__ as entry
def run(job, store):
    print("ready", flush=True)
    store.download(S3Location("bucket", "key"), Path(sys.argv[1]))
entry.import_module = lambda name: types.SimpleNamespace(run=run)
entry.main(["export"])
"""


def test_sigterm_in_the_midst_of_a_request_ends_the_stage(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "target")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        # Nothing listens there: without the signal the store would try for minutes.
        assert process.wait(timeout=30) == ExitCode.STOPPED
        assert time.monotonic() - start < 15
    word = TerminationMessage.model_validate_json((tmp_path / "last-word").read_bytes())
    assert word.reason is Reason.STOPPED


# A worker whose peer never comes: it waits outside of Python, where no handler of a signal runs.
LONELY = """
import types
from datetime import timedelta
from torch.distributed import TCPStore
from finetune_trainer import __main__ as entry
def run(job, store):
    print("ready", flush=True)
    TCPStore("127.0.0.1", 1, 2, is_master=False, timeout=timedelta(minutes=5))
entry.import_module = lambda name: types.SimpleNamespace(run=run)
entry.main(["train-worker"])
"""


def test_sigterm_ends_a_worker_that_waits_for_its_peers(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", LONELY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["prepare", "train"]])
def test_wrong_arguments_are_told(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m finetune_trainer prepare\|train\|export\|train-worker"):
        entry.main(arguments)


def test_a_pod_knows_itself() -> None:
    pod = read_pod({"FINETUNE_POD_UID": "12345678-9abc-def0", "JOB_COMPLETION_INDEX": "3"})
    assert (pod.index, pod.writer(2), pod.progress_url) == (3, "a2-12345678", "")
    assert str(pod.credentials_file) == "/var/run/finetune/s3/credentials"
    assert str(pod.termination_log) == "/dev/termination-log"


def test_the_mounts_of_a_pod_can_be_moved() -> None:
    pod = read_pod({"FINETUNE_MOUNTS": "/m", "FINETUNE_WORK_DIR": "/w"})
    paths = [str(path) for path in (pod.ca_bundle_file, pod.token_file, pod.work_dir)]
    assert paths == ["/m/ca/ca.crt", "/m/token/token", "/w"]
