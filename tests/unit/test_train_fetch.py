"""A checkpoint that takes long to fetch, and to divide anew, is no hang, as long as something comes of it."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
import torch.multiprocessing
from held_loop import join

from finetune_trainer.train import errand, finish, start
from finetune_trainer.train.processes import Process

LOOK = 0.05


class Beats:
    """Stands in for the watchdog."""

    def __init__(self):
        self.count = 0

    def beat(self):
        self.count += 1


def run_of(rank=0, world_size=1, *, zero_stage=2):
    process = Process(rank, rank, world_size, world_size, torch.device("cpu"))
    return SimpleNamespace(
        process=process, watchdog=Beats(), layout=None, method=None, plan=SimpleNamespace(zero_stage=zero_stage)
    )


def commit_of(world_size=1):
    return SimpleNamespace(zero_stage=2, world_size=world_size, step=3, eval_loss=None)


def writing(times, *, whole=True):
    """Return what fetches a commit as a slow server lets it: a piece at every other look."""

    def fetch_commit(store, layout, commit, directory, select):
        directory.mkdir(parents=True)
        with (directory / "shard").open("wb") as file:
            for _ in range(times):
                file.write(b"piece")
                file.flush()
                time.sleep(2 * LOOK)
        return whole

    return fetch_commit


def dawdling(store, layout, commit, directory, select):
    """Fetch nothing."""
    time.sleep(10 * LOOK)
    return True


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A group of this process alone; return a scratch space."""
    monkeypatch.setattr(errand, "LOOK_SECONDS", LOOK)
    join(tmp_path)
    yield tmp_path / "scratch"
    dist.destroy_process_group()


def test_a_commit_that_comes_slowly_is_a_sign_of_life(alone, monkeypatch):
    run = run_of()
    monkeypatch.setattr(start, "fetch_commit", writing(5))
    assert start._fetch(run, None, commit_of(), alone)
    assert run.watchdog.count >= 4


def test_a_commit_of_which_nothing_comes_is_none(alone, monkeypatch):
    run = run_of()
    monkeypatch.setattr(start, "fetch_commit", dawdling)
    assert start._fetch(run, None, commit_of(), alone)
    assert run.watchdog.count <= 1


def test_dividing_it_anew_is_a_sign_of_life(alone, monkeypatch):
    run, fetch = run_of(zero_stage=3), writing(1)
    monkeypatch.setattr(start, "fetch_commit", fetch)
    monkeypatch.setattr(start, "reshard", lambda run, directory: writing(5)(None, None, None, directory / "u", None))
    assert start._fetch(run, None, commit_of(), alone)
    assert run.watchdog.count >= 4


def test_the_best_weights_that_come_slowly_are_a_sign_of_life(alone, monkeypatch):
    run = run_of()
    run.engine = SimpleNamespace(module=SimpleNamespace(model=None))
    monkeypatch.setattr(finish, "fetch_commit", writing(5))
    monkeypatch.setattr(finish.weights, "restore", lambda *_: None)
    finish._load_weights(run, None, commit_of(), alone)
    assert run.watchdog.count >= 4


def test_what_is_not_whole_is_told_to_all(alone, monkeypatch):
    monkeypatch.setattr(start, "fetch_commit", writing(1, whole=False))
    assert not start._fetch(run_of(), None, commit_of(), alone)


def test_what_fails_is_raised(alone, monkeypatch):
    def fetch_commit(*_):
        raise TimeoutError("the server does not answer")

    monkeypatch.setattr(start, "fetch_commit", fetch_commit)
    with pytest.raises(TimeoutError, match="does not answer"):
        start._fetch(run_of(), None, commit_of(), alone)


def fetch_together(rank, scratch):
    """Be one of two processes of a pod; the first fetches for both."""
    errand.LOOK_SECONDS = LOOK
    join(scratch, rank, 2)
    start.fetch_commit = writing(8)
    run = run_of(rank, 2)
    assert start._fetch(run, None, commit_of(2), scratch / "commit")
    assert (scratch / "commit" / "shard").stat().st_size == 40
    (scratch / f"beats-{rank}").write_text(str(run.watchdog.count))


@pytest.mark.slow
def test_those_that_wait_for_it_give_signs_of_life_too(tmp_path: Path):
    torch.multiprocessing.spawn(fetch_together, (tmp_path,), nprocs=2)
    assert all(int((tmp_path / f"beats-{rank}").read_text()) >= 4 for rank in range(2))
