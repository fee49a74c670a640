"""The watchdog in processes of its own: what is a hang, what is none, and what is said of it."""

import json
import os
import re
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
from finetune_api.status import Progress
from finetune_trainer.train.pace import Pace
from finetune_trainer.train.watchdog import Patience, Watchdog

PRELUDE = """
import ctypes, os, sys, threading, time
from dataclasses import replace
from pathlib import Path
from finetune_api.status import Progress
from finetune_trainer.train.watchdog import Patience, Watchdog

class Listener:
    heartbeats = 0
    def heartbeat(self):
        self.heartbeats += 1
    def between_steps(self):
        pass
    def reached(self, message):
        return message.model_copy(update={"progress": Progress(step=7, total_steps=9)})

def wait_for_ever():
    os.read(os.pipe()[0], 1)

patience = Patience(least=0.6, slow=1.8, look=0.1, farewell=0.3)
def watch(**changes):
    return Watchdog(3, Path(sys.argv[1]), replace(patience, **changes))

watchdog = watch()
"""


class Watched:
    """A process under a watchdog."""

    def __init__(self, folder: Path, body: str) -> None:
        self._word = folder / "last-word"
        code = PRELUDE + textwrap.dedent(body)
        command = [sys.executable, "-c", code, str(self._word)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self) -> int:
        self.output, self.errors = self.process.communicate(timeout=60)
        return self.process.returncode

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def word(self) -> TerminationMessage:
        return TerminationMessage.model_validate_json(self._word.read_bytes())


def test_a_hang_in_c_code_ends_the_process_and_names_the_place(tmp_path: Path) -> None:
    body = """
    with watchdog:
        watchdog.listener = Listener()
        watchdog.step(41)
        threading.Thread(target=time.sleep, args=(60,), name="helper", daemon=True).start()
        wait_for_ever()
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == ExitCode.HUNG, watched.errors
    word = watched.word()
    assert word.reason is Reason.HUNG
    assert re.match(
        r"the training hangs: rank 3 gave no sign of life for \d+ s after step 41; it stands in ", word.message
    )
    assert "wait_for_ever (<string>:" in word.message
    assert word.progress == Progress(step=7, total_steps=9)
    stacks = {event["thread"].split()[0]: event["frames"] for event in watched.events("stack")}
    assert {"MainThread", "helper", "watchdog"} <= stacks.keys()
    assert "wait_for_ever" in stacks["MainThread"][-1]
    assert watched.events("hung")[0]["doing"] == "after step 41"


def test_signs_of_life_keep_a_process_alive(tmp_path: Path) -> None:
    body = """
    watchdog = watch(least=1.5)
    listener = watchdog.listener = Listener()
    with watchdog:
        watchdog.step(1)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            time.sleep(0.02)
            watchdog.beat()
    print(listener.heartbeats)
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == 0, watched.errors
    assert int(watched.output) >= 3


def test_slow_work_is_given_more_time_and_tells_that_it_lives(tmp_path: Path) -> None:
    body = """
    listener = watchdog.listener = Listener()
    with watchdog:
        watchdog.step(1)
        with watchdog.during("while it saves", slow=True):
            time.sleep(1.2)
        print(listener.heartbeats, flush=True)
        with watchdog.during("while it saves again", slow=True):
            wait_for_ever()
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == ExitCode.HUNG, watched.errors
    assert int(watched.output.splitlines()[0]) >= 3
    assert re.search(r"no sign of life for \d+ s while it saves again;", watched.word().message)


def test_silence_without_slow_work_is_not_told_as_life(tmp_path: Path) -> None:
    body = """
    watchdog = watch(least=30)
    listener = watchdog.listener = Listener()
    with watchdog:
        watchdog.step(1)
        time.sleep(0.5)
        before = listener.heartbeats
        time.sleep(0.2)
        print(listener.heartbeats - before)
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == 0, watched.errors
    assert watched.output == "0\n"


def test_until_the_first_step_a_process_is_given_more_time(tmp_path: Path) -> None:
    body = """
    listener = watchdog.listener = Listener()
    with watchdog:
        time.sleep(1.2)
    print(listener.heartbeats)
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == 0, watched.errors
    assert int(watched.output) >= 3


def test_a_hang_that_holds_the_interpreter_ends_too(tmp_path: Path) -> None:
    body = """
    with watchdog:
        watchdog.step(1)
        time.sleep(0.3)
        ctypes.PyDLL(None).sleep(60)
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == 1
    assert "Timeout" in watched.errors
    assert 'File "<string>"' in watched.errors


def test_what_the_main_thread_meets_after_the_verdict_changes_nothing(tmp_path: Path) -> None:
    """As when a peer ends first and the collective fails at last."""
    body = """
    watchdog = watch(farewell=2.0)
    try:
        with watchdog:
            watchdog.step(1)
            time.sleep(1.5)
            raise RuntimeError("connection closed by peer")
    finally:
        Path(sys.argv[1]).write_text("crashed")
    """
    watched = Watched(tmp_path, body)
    assert watched.end() == ExitCode.HUNG
    assert watched.word().reason is Reason.HUNG


def test_a_process_that_was_frozen_does_not_hang(tmp_path: Path) -> None:
    body = """
    with watch(look=0.5) as watchdog:
        watchdog.step(1)
        print("ready", flush=True)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            time.sleep(0.005)
            watchdog.beat()
    """
    watched = Watched(tmp_path, body)
    assert watched.process.stdout is not None
    assert watched.process.stdout.readline() == "ready\n"
    os.kill(watched.process.pid, signal.SIGSTOP)
    time.sleep(1)  # longer than the patience, by the clock that the process itself reads
    os.kill(watched.process.pid, signal.SIGCONT)
    assert watched.end() == 0, watched.errors


@pytest.mark.parametrize(
    ("steps", "slow", "limit"),
    [([], False, 1800), ([1.0], False, 600), ([60.0], False, 1200), ([1.0], True, 1800), ([100.0], True, 2000)],
)
def test_the_limit_follows_the_median_step(monkeypatch, steps, slow, limit):
    watchdog = Watchdog(0, Path("/dev/null"))
    monkeypatch.setattr(Pace, "median", property(lambda self: steps[0] if steps else None))
    if slow:
        with watchdog.during("while it saves", slow=True):
            assert watchdog.limit == limit
    else:
        assert watchdog.limit == limit


def test_the_median_is_of_the_newest_steps_and_leaves_out_what_is_no_step(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace = Pace()
    assert pace.median is None

    def work(seconds: float) -> None:
        clock[0] += seconds

    for _ in range(40):
        work(1)
        pace.step()
    for _ in range(20):
        work(100)  # an evaluation
        pace.begin()
        work(3)
        pace.step()
    assert pace.median == 3
    for _ in range(40):
        work(2)
        pace.step()
    assert pace.median == 2


def test_a_patience_for_tests_looks_and_ends_sooner():
    assert Patience.of(None) == Patience()
    assert Patience.of(5) == Patience(least=5, look=0.5, farewell=5)
