"""The launcher: what its workers are told, how their ends become the pod's end."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import TerminationMessage
from finetune_trainer.errors import WorkersFailed
from finetune_trainer.launcher import Ended, Workers, conclude


def workers(folder: Path, **changes: Any) -> Workers:
    settings = {"first_rank": 0, "count": 2, "world_size": 2, "master": ("host", 29500), "messages": folder}
    return Workers(**{**settings, **changes})


def leave_word(folder: Path, rank: int, reason: Reason, message: str = "") -> None:
    word = TerminationMessage(reason=reason, message=message)
    (folder / f"rank-{rank}.json").write_text(word.model_dump_json(by_alias=True))


def test_a_worker_is_told_its_place(tmp_path: Path) -> None:
    environment = workers(tmp_path, first_rank=8, count=8, world_size=16).environment(11)
    assert environment == {
        "RANK": "11",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "16",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "host",
        "MASTER_PORT": "29500",
        "FINETUNE_TERMINATION_LOG": str(tmp_path / "rank-11.json"),
    }


VERDICTS = [
    # ends in order, exit code (None: success), rank whose word counts
    ([(1, 0), (0, 0)], None, 0),
    ([(0, 77), (1, 1)], 77, 0),
    ([(1, 137), (0, 1)], 137, 1),
    ([(0, 0), (1, 64)], 64, 1),
    ([(1, 75), (0, 75)], 75, 0),
    ([(1, 77), (0, 77)], 77, 0),
    ([(1, 0), (0, 75)], 75, 0),
    ([(1, 75), (0, 76)], 76, 0),
]


@pytest.mark.parametrize(("ends", "code", "speaker"), VERDICTS)
def test_the_first_failure_is_the_pods_end(
    tmp_path: Path, ends: list[tuple[int, int]], code: int | None, speaker: int
) -> None:
    for rank in range(2):
        leave_word(tmp_path, rank, Reason.SUCCEEDED, f"rank {rank}")
    ended = [Ended(rank, number) for rank, number in ends]
    if code is None:
        assert conclude(workers(tmp_path), ended).message == f"rank {speaker}"
        return
    with pytest.raises(WorkersFailed) as caught:
        conclude(workers(tmp_path), ended)
    assert (caught.value.code, caught.value.last_word.message) == (code, f"rank {speaker}")


OBITUARIES = [
    (137, "training process of rank 1 was killed by SIGKILL, as by the kernel when memory runs out"),
    (139, "training process of rank 1 was killed by SIGSEGV"),
    (1, "training process of rank 1 ended with exit code 1 and left no message"),
]


@pytest.mark.parametrize(("code", "text"), OBITUARIES)
@pytest.mark.parametrize("left", [None, "", "{"])
def test_a_worker_without_a_last_word_gets_one(tmp_path: Path, code: int, text: str, left: str | None) -> None:
    if left is not None:
        (tmp_path / "rank-1.json").write_text(left)
    with pytest.raises(WorkersFailed) as caught:
        conclude(workers(tmp_path), [Ended(1, code)])
    assert caught.value.last_word.reason is Reason.CRASHED
    assert caught.value.last_word.message.startswith(text)


def test_success_without_a_last_word_is_still_success(tmp_path: Path) -> None:
    assert conclude(workers(tmp_path), [Ended(0, 0), Ended(1, 0)]).reason is Reason.SUCCEEDED


# The launcher as a process of its own, with workers that run a piece of Python.
LAUNCH = """
import asyncio, sys
from pathlib import Path
from finetune_trainer.errors import WorkersFailed
from finetune_trainer.launcher import Workers, conclude, supervise
folder, body = sys.argv[1:]
workers = Workers(first_rank=0, count=2, world_size=2, master=("127.0.0.1", 1), messages=Path(folder),
                  command=(sys.executable, "-c", body), stop_grace=1.0, failure_grace=1.0)
try:
    print(conclude(workers, asyncio.run(supervise(workers))).reason, flush=True)
except WorkersFailed as failure:
    print(failure.last_word.message, flush=True)
    sys.exit(failure.code)
"""
PRELUDE = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
def tell(text):
    # In one piece: two workers write into the same pipe.
    os.write(1, f"{text} {rank}\\n".encode())
"""


def launch(folder: Path, body: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LAUNCH, str(folder), PRELUDE + textwrap.dedent(body)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def await_lines(process: "subprocess.Popen[str]", *lines: str) -> None:
    assert process.stdout is not None
    wanted = set(lines)
    while wanted:
        line = process.stdout.readline()
        assert line, "the launcher ended early"
        wanted.discard(line.strip())


def test_workers_that_succeed(tmp_path: Path) -> None:
    word = TerminationMessage(reason=Reason.SUCCEEDED).model_dump_json(by_alias=True)
    body = f"open(os.environ['FINETUNE_TERMINATION_LOG'], 'w').write({word!r}); tell('rank')"
    code, output = finish(launch(tmp_path / "words", body))
    assert code == 0
    assert {"rank 0", "rank 1", "Succeeded"} <= set(output.splitlines())


def test_the_others_are_ended_soon_after_a_failure(tmp_path: Path) -> None:
    start = time.monotonic()
    code, output = finish(launch(tmp_path, "sys.exit(77) if rank == 1 else time.sleep(600)"))
    assert (code, time.monotonic() - start < 30) == (77, True)
    assert "training process of rank 1 ended with exit code 77" in output


def test_a_killed_worker_is_named_with_its_signal(tmp_path: Path) -> None:
    code, output = finish(launch(tmp_path, "os.kill(os.getpid(), 9) if rank == 0 else time.sleep(600)"))
    assert code == 137
    assert "training process of rank 0 was killed by SIGKILL" in output


STOPPABLE = """
def stop(*_):
    time.sleep(2 * rank)  # longer than the grace after a failure
    tell("saved")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
tell("ready")
time.sleep(600)
"""


def test_sigterm_is_passed_on_and_all_may_save(tmp_path: Path) -> None:
    body = STOPPABLE.replace("2 * rank", "0.5 * rank")
    process = launch(tmp_path, body)
    await_lines(process, "ready 0", "ready 1")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == ExitCode.STOPPED
    assert {"saved 0", "saved 1"} <= set(output.splitlines())


def test_a_worker_that_ignores_sigterm_is_killed_before_the_grace_ends(tmp_path: Path) -> None:
    process = launch(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); tell('ready'); time.sleep(600)")
    await_lines(process, "ready 0", "ready 1")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 137
