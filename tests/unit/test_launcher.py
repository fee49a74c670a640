"""The launcher: what its workers are told, how their ends become the pod's end."""

import json
import os
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
from finetune_trainer.launcher import conclude
from finetune_trainer.train.stage import CPU_ENVIRONMENT, WORKER_ENVIRONMENT
from finetune_trainer.workers import Ended, Workers


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
    ([(1, 78), (0, 78)], 78, 0),
    ([(1, 78), (0, 137)], 78, 1),
    # What crashes after a stop on request lost its peer; what crashed before did not.
    ([(0, 75), (1, 1)], 75, 0),
    ([(0, 75), (1, 137)], 75, 0),
    ([(1, 1), (0, 75)], 1, 1),
    ([(1, 75), (0, 78)], 78, 0),
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
    (135, "training process of rank 1 was killed by SIGBUS, as when /dev/shm is full"),
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
from finetune_trainer.launcher import conclude
from finetune_trainer.supervision import supervise
from finetune_trainer.workers import Workers
folder, body = sys.argv[1:]
workers = Workers(first_rank=0, count=2, world_size=2, master=("127.0.0.1", 1), messages=Path(folder),
                  command=(sys.executable, "-c", body), stop_grace=1.0, failure_grace=1.0,
                  stacks_grace=0.5)
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


def launch(folder: Path, body: str, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LAUNCH, str(folder), PRELUDE + textwrap.dedent(body)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


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


STUCK = """
from finetune_trainer import stacks
stacks.answer_signals()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def wait_for_a_peer_that_is_gone():
    os.read(os.pipe()[0], 1)
tell("ready")
wait_for_a_peer_that_is_gone()
"""


def test_workers_that_do_not_stop_write_their_stacks_before_they_are_killed(tmp_path: Path) -> None:
    process = launch(tmp_path, STUCK)
    await_lines(process, "ready 0", "ready 1")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 137
    assert output.count("in wait_for_a_peer_that_is_gone") == 2
    before, _, after = output.partition('"workers-killed"')
    assert '"stacks-requested"' in before
    assert "in wait_for_a_peer_that_is_gone" not in after


def test_a_worker_left_alone_by_a_failure_writes_its_stacks(tmp_path: Path) -> None:
    code, output = finish(launch(tmp_path, f"if rank == 1:\n    sys.exit(76)\n{STUCK}"))
    assert code == 76
    assert output.count("in wait_for_a_peer_that_is_gone") == 1


def test_a_worker_that_cannot_write_stacks_yet_does_not_die_of_the_question(tmp_path: Path) -> None:
    body = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); tell('ready'); time.sleep(0.8); tell('saved'); sys.exit(75)"
    )
    process = launch(tmp_path, body)
    await_lines(process, "ready 0", "ready 1")
    process.send_signal(signal.SIGTERM)  # the question comes after half a second
    code, output = finish(process)
    assert code == ExitCode.STOPPED, output
    assert {"saved 0", "saved 1"} <= set(output.splitlines())


def test_a_stop_that_comes_before_a_worker_can_handle_it_is_a_stop(tmp_path: Path) -> None:
    process = launch(tmp_path, "tell('ready'); time.sleep(600)")
    await_lines(process, "ready 0", "ready 1")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == ExitCode.STOPPED
    assert "stopped on request before training had begun" in output


NETWORK = {
    "NCCL_SOCKET_IFNAME": "eth1",
    "NCCL_IB_HCA": "mlx5_0,mlx5_1",
    "NCCL_DEBUG": "INFO",
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "UCX_NET_DEVICES": "mlx5_0:1",
    "GLOO_SOCKET_IFNAME": "eth1",
}


def test_what_a_user_sets_for_the_network_reaches_the_workers(tmp_path: Path) -> None:
    """And nothing of that kind is set beside it."""
    body = """
    import json
    prefixes = ("NCCL_", "TORCH_NCCL_", "UCX_", "GLOO_", "TP_")
    Path = __import__("pathlib").Path
    found = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    Path(os.environ["FINETUNE_TERMINATION_LOG"] + ".env").write_text(json.dumps(found))
    """
    code, output = finish(launch(tmp_path, body, **NETWORK))
    assert code == 0, output
    for rank in range(2):
        assert json.loads((tmp_path / f"rank-{rank}.json.env").read_text()) == NETWORK


def test_the_stage_itself_sets_nothing_for_the_network() -> None:
    own = {**WORKER_ENVIRONMENT, **CPU_ENVIRONMENT, **workers(Path("/x")).environment(0)}
    assert not [name for name in own if name.startswith(("NCCL_", "TORCH_NCCL_", "UCX_", "GLOO_", "OMPI_", "FI_"))]
