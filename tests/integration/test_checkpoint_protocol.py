"""Checkpoints through real uploader processes to a real S3 server: whole or not there, whatever is killed when."""

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.run import Commit, RunLayout
from finetune_api.spec import S3Storage
from finetune_api.status import Validation
from finetune_api.uris import S3Location
from finetune_loopback.mounts import lay_out_mounts
from finetune_loopback.s3_fault_proxy import Kind, S3FaultProxy, running_fault_proxy
from finetune_loopback.s3_server import S3Server
from finetune_trainer.checkpoint import (
    CheckpointWriter,
    CommitMeta,
    WriterSettings,
    fetch_commit,
    find_commit,
    read_commits,
)
from finetune_trainer.checkpoint.discover import defect, object_sizes, shards_of
from finetune_trainer.storage import RetryBudget, Store, open_s3
from finetune_trainer.storage.transfer import PART_BYTES

SECONDS = 60.0
BUDGET = RetryBudget(seconds=20, first_contact=20)
META = CommitMeta(zero_stage=1, consumed_sequences=64, config_digest="c" * 64)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket("checkpoints")


@pytest.fixture
def layout(bucket: str) -> RunLayout:
    return RunLayout(f"s3://{bucket}/runs", secrets.token_hex(4))


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3FaultProxy]:
    with running_fault_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def store(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that goes past the proxy."""
    mounts = lay_out_mounts(tmp_path / "mounts", s3_server.credentials_file)
    monkeypatch.setenv("FINETUNE_MOUNTS", str(mounts))
    return open_s3(storage(s3_server.endpoint), BUDGET)


def storage(endpoint: str) -> S3Storage:
    return S3Storage.model_validate({"endpoint": endpoint, "credentialsSecretRef": {"name": "s3"}})


Make = Callable[..., CheckpointWriter]


@pytest.fixture
def make_writer(store: Store, proxy: S3FaultProxy, layout: RunLayout) -> Iterator[Make]:
    """Makes writers whose uploaders go through the proxy; all are ended with the test."""
    base = WriterSettings(
        s3=storage(proxy.endpoint),
        layout=layout,
        writer="a1-0000aaaa",
        rank=0,
        world_size=1,
        attempt=1,
        keep_last=2,
        keep_best=1,
        budget=BUDGET,
        rank_deadline=30,
    )
    made: list[CheckpointWriter] = []

    def make(**changes: object) -> CheckpointWriter:
        made.append(CheckpointWriter(replace(base, **changes)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for writer in made:
        writer.close(timeout=5)


@pytest.fixture
def staged(tmp_path: Path) -> Callable[[int], Path]:
    """Makes the folder that a rank hands over."""

    def stage(step: int, rank: int = 0) -> Path:
        folder = tmp_path / f"staged-{step}-{rank}-{secrets.token_hex(2)}"
        (folder / "weights").mkdir(parents=True)
        (folder / "optimizer.pt").write_bytes(os.urandom(2000) + bytes([step, rank]))
        (folder / "weights" / "adapter.safetensors").write_bytes(os.urandom(1000))
        return folder

    return stage


def assert_consistent(store: Store, layout: RunLayout) -> list[int]:
    """Every commit refers to objects that are all there; return the committed steps."""
    commits = read_commits(store, layout)
    for commit in commits:
        assert defect(commit, object_sizes(store, shards_of(layout, commit))) is None
    return [commit.step for commit in commits]


def newest(store: Store, layout: RunLayout) -> Commit | None:
    return find_commit(store, layout, META.config_digest)


def test_a_folder_becomes_a_commit_and_comes_back(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], tmp_path: Path
) -> None:
    folder = staged(7)
    content = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    writer = make_writer()
    assert writer.poll() == []
    assert writer.submit(7, folder, replace(META, validation=Validation(eval_loss=0.5)))
    assert writer.busy
    assert writer.drain(SECONDS)
    (committed,) = writer.poll()
    assert (committed.step, committed.ref.uri, committed.ref.eval_loss) == (7, layout.commit(7).uri, 0.5)
    assert committed.ref.size_bytes == sum(map(len, content.values()))
    assert not folder.exists()
    commit = newest(store, layout)
    assert commit is not None
    assert (commit.step, commit.writer, commit.consumed_sequences, commit.zero_stage) == (7, "a1-0000aaaa", 64, 1)
    assert fetch_commit(store, layout, commit, tmp_path / "back")
    back = tmp_path / "back" / "rank-0"
    assert {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()} == content


def test_a_part_of_a_commit_is_fetched_by_name(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], tmp_path: Path
) -> None:
    writer = make_writer()
    writer.submit(1, staged(1), META)
    assert writer.drain(SECONDS)
    commit = newest(store, layout)
    assert commit is not None
    assert fetch_commit(store, layout, commit, tmp_path / "back", lambda name: name.startswith("rank-0/weights/"))
    files = [path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert files == [Path("rank-0/weights/adapter.safetensors")]


def test_the_commit_waits_for_the_slowest_rank(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], proxy: S3FaultProxy
) -> None:
    writers = [make_writer(rank=rank, world_size=2) for rank in range(2)]
    slow = proxy.inject(Kind.HOLD, "PUT", "rank-1.json")
    looks = proxy.count("GET", "list-type")
    for rank, writer in enumerate(writers):
        assert writer.submit(10, staged(10, rank), META)
    assert slow.reached.wait(SECONDS)
    while proxy.count("GET", "list-type") < looks + 4:  # rank 0 looks for the missing part again and again
        time.sleep(0.05)
    assert writers[0].busy
    assert store.list(layout.commits) == []
    slow.release.set()
    assert all(writer.drain(SECONDS) for writer in writers)
    assert [len(writer.poll()) for writer in writers] == [1, 0]
    commit = newest(store, layout)
    assert commit is not None
    assert (commit.world_size, len(commit.files)) == (2, 4)


def test_a_rank_that_never_uploads_fails_the_save_and_not_the_next(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path]
) -> None:
    first, second = (make_writer(rank=rank, world_size=2, rank_deadline=4) for rank in range(2))
    second.submit(0, staged(0, 1), META)
    assert second.drain(SECONDS)  # it runs, and is in time for the second save
    first.submit(1, staged(1), META)
    assert first.drain(SECONDS)
    assert (first.failed, first.poll()) == (1, [])
    assert "ranks [1] did not upload their part" in first.last_error
    for rank, writer in enumerate((first, second)):
        writer.submit(2, staged(2, rank), META)
    assert first.drain(SECONDS)
    assert second.drain(SECONDS)
    assert [committed.step for committed in first.poll()] == [2]
    assert assert_consistent(store, layout) == [2]


def test_one_save_is_in_flight_and_a_second_is_skipped(
    make_writer: Make, staged: Callable[..., Path], proxy: S3FaultProxy
) -> None:
    held = proxy.inject(Kind.HOLD, "PUT", "optimizer.pt")
    writer = make_writer()
    assert writer.submit(1, staged(1), META)
    second = staged(2)
    assert not writer.submit(2, second, META)
    assert (writer.skipped, writer.failed, second.exists()) == (1, 0, False)
    assert not writer.drain(0.1)
    held.release.set()
    assert writer.drain(SECONDS)
    assert [committed.step for committed in writer.poll()] == [1]


def test_a_large_file_gives_signs_of_life_before_it_is_whole(
    make_writer: Make, staged: Callable[..., Path], proxy: S3FaultProxy
) -> None:
    held = proxy.inject(Kind.HOLD, "PUT", "partNumber=2")
    folder = staged(1)
    (folder / "optimizer.pt").write_bytes(bytes(PART_BYTES + 1))
    for small in (folder / "weights").iterdir():
        small.unlink()
    writer = make_writer()
    assert writer.submit(1, folder, META)
    assert held.reached.wait(SECONDS)
    while writer.signs == 0:
        assert writer.busy
        time.sleep(0.02)
    held.release.set()
    assert writer.drain(SECONDS)
    assert writer.poll()[0].ref.size_bytes == PART_BYTES + 1


# What the uploader is doing when it is killed, and whether the commit exists then.
CRASH_POINTS = [
    ((Kind.HOLD, "optimizer.pt", "PUT"), False),
    ((Kind.HOLD_REPLY, "optimizer.pt", "PUT"), False),
    ((Kind.HOLD, "rank-0.json", "PUT"), False),
    ((Kind.HOLD_REPLY, "rank-0.json", "PUT"), False),
    ((Kind.HOLD, "rank-0.json", "GET"), False),
    ((Kind.HOLD, "00000002.json", "PUT"), False),
    ((Kind.HOLD_REPLY, "00000002.json", "PUT"), True),
]


@pytest.mark.parametrize(("point", "exists"), CRASH_POINTS)
def test_a_killed_uploader_leaves_a_whole_checkpoint_and_is_replaced(
    make_writer: Make,
    store: Store,
    layout: RunLayout,
    staged: Callable[..., Path],
    proxy: S3FaultProxy,
    point: tuple[Kind, str, str],
    exists: bool,
) -> None:
    kind, contains, method = point
    writer = make_writer()
    writer.submit(1, staged(1), META)
    assert writer.drain(SECONDS)
    held = proxy.inject(kind, method, contains)
    folder = staged(2)
    writer.submit(2, folder, META)
    assert held.reached.wait(SECONDS)
    if kind is Kind.HOLD_REPLY and method == "PUT":
        await_object(store, layout, contains)
    assert writer._uploader is not None
    os.kill(writer._uploader.process.pid or 0, signal.SIGKILL)
    assert writer.drain(SECONDS)
    assert (writer.failed, folder.exists()) == (1, False)
    assert "exit code -9" in writer.last_error
    found = newest(store, layout)
    assert found is not None
    assert found.step == (2 if exists else 1)
    assert_consistent(store, layout)
    writer.submit(3, staged(3), META)
    assert writer.drain(SECONDS)
    assert assert_consistent(store, layout)[-1] == 3
    held.release.set()


def await_object(store: Store, layout: RunLayout, name: str) -> None:
    while not any(info.key.endswith(name) for info in store.list(layout.root)):
        time.sleep(0.02)


PARENT = """
import sys
from pathlib import Path
from finetune_api.run import RunLayout
from finetune_api.spec import S3Storage
from finetune_trainer.checkpoint import CheckpointWriter, CommitMeta, WriterSettings
if __name__ == "__main__":
    endpoint, uri, folder = sys.argv[1:]
    s3 = S3Storage.model_validate({"endpoint": endpoint, "credentialsSecretRef": {"name": "s3"}})
    writer = CheckpointWriter(WriterSettings(s3=s3, layout=RunLayout(uri, "run"), writer="a1-x", rank=0,
        world_size=1, attempt=1, keep_last=2, keep_best=1))
    writer.submit(1, Path(folder), CommitMeta(zero_stage=0, consumed_sequences=1, config_digest="c" * 64))
    print(writer._uploader.process.pid, flush=True)
    sys.stdin.read()
"""


def test_the_uploader_dies_with_the_training_process(
    store: Store, layout: RunLayout, staged: Callable[..., Path], proxy: S3FaultProxy, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    held = proxy.inject(Kind.HOLD, "PUT", "optimizer.pt")
    command = [sys.executable, str(script), proxy.endpoint, layout.root.uri, str(staged(1))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        uploader = os.pidfd_open(int(parent.stdout.readline()))
        assert held.reached.wait(SECONDS)
        parent.kill()
        readable, _, _ = select.select([uploader], [], [], SECONDS)
    assert readable == [uploader]
    os.close(uploader)
    held.release.set()
    assert store.list(layout.root.child("run/commits")) == []


def test_of_two_attempts_at_one_step_one_commits(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], proxy: S3FaultProxy
) -> None:
    writers = [make_writer(writer=f"a{attempt}-{attempt:08d}", attempt=attempt) for attempt in (1, 2)]
    gates = [proxy.inject(Kind.HOLD, "PUT", "00000005.json") for _ in writers]
    for writer in writers:
        writer.submit(5, staged(5), META)
    assert all(gate.reached.wait(SECONDS) for gate in gates)
    for gate in gates:
        gate.release.set()
    assert all(writer.drain(SECONDS) for writer in writers)
    won = [len(writer.poll()) for writer in writers]
    assert sorted(won) == [0, 1]
    loser = writers[won.index(0)]
    assert (loser.failed, "was committed by a" in loser.last_error) == (1, True)
    commit = newest(store, layout)
    assert commit is not None
    assert commit.attempt == won.index(1) + 1
    assert assert_consistent(store, layout) == [5]


def commit_steps(writer: CheckpointWriter, staged: Callable[..., Path], losses: dict[int, float | None]) -> None:
    for step, loss in losses.items():
        writer.submit(step, staged(step), replace(META, validation=Validation(eval_loss=loss)))
        assert writer.drain(SECONDS)
        assert [committed.step for committed in writer.poll()] == [step]


def alter(client_of: S3Server, location: S3Location) -> None:
    client = client_of.client()
    data = bytearray(client.get_object(Bucket=location.bucket, Key=location.key)["Body"].read())
    data[0] ^= 1
    client.put_object(Bucket=location.bucket, Key=location.key, Body=bytes(data))


def test_an_altered_newest_commit_is_marked_passed_over_and_replaced(
    make_writer: Make,
    store: Store,
    layout: RunLayout,
    staged: Callable[..., Path],
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    writer = make_writer()
    commit_steps(writer, staged, {1: None, 2: None})
    altered = layout.shards(step=2, writer="a1-0000aaaa").child("rank-0/optimizer.pt")
    alter(s3_server, altered)
    commit = newest(store, layout)
    assert commit is not None
    assert not fetch_commit(store, layout, commit, tmp_path / "bad")
    mark = store.read(layout.bad_commit(2)).decode()
    assert altered.uri in mark
    before = newest(store, layout)
    assert before is not None
    assert before.step == 1
    assert fetch_commit(store, layout, before, tmp_path / "good")
    again = make_writer(writer="a2-0000bbbb", attempt=2)
    commit_steps(again, staged, {2: None})
    fresh = newest(store, layout)
    assert fresh is not None
    assert (fresh.step, fresh.attempt) == (2, 2)
    assert fetch_commit(store, layout, fresh, tmp_path / "fresh")


def test_commits_with_missing_short_or_unreadable_objects_are_passed_over(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path]
) -> None:
    commit_steps(make_writer(keep_last=9), staged, {1: None, 2: None, 3: None, 4: None})
    shards = [layout.shards(step=step, writer="a1-0000aaaa") for step in range(5)]
    store.put(layout.commit(4), b'{"writer": "a1-0000aaaa", "step"')
    store.delete([shards[3].child("rank-0/optimizer.pt")])
    store.put(shards[2].child("rank-0/optimizer.pt"), b"short")
    found = newest(store, layout)
    assert found is not None
    assert found.step == 1
    causes = [store.read(layout.bad_commit(step)).decode() for step in (2, 3, 4)]
    assert "has 5 bytes instead of 2002" in causes[0]
    assert "optimizer.pt is missing" in causes[1]
    assert "cannot be read" in causes[2]


def test_a_commit_of_another_configuration_is_not_taken(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path]
) -> None:
    commit_steps(make_writer(), staged, {1: None})
    assert find_commit(store, layout, "d" * 64) is None
    assert newest(store, layout) is not None


def test_a_run_without_commits_starts_from_nothing(store: Store, layout: RunLayout) -> None:
    assert newest(store, layout) is None


def test_the_last_and_the_best_are_kept_and_nothing_else(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path]
) -> None:
    writer = make_writer(keep_last=2, keep_best=1)
    commit_steps(writer, staged, {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.6, 5: None})
    writer.close()
    assert assert_consistent(store, layout) == [2, 4, 5]
    steps = {info.key.removeprefix(f"{layout.data.key}/").split("-")[0] for info in store.list(layout.data)}
    assert steps == {"00000002", "00000004", "00000005"}


def test_what_dead_attempts_left_is_deleted_at_the_next_start(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], s3_server: S3Server
) -> None:
    commit_steps(make_writer(), staged, {1: None})
    dead = layout.shards(step=2, writer="a1-0000aaaa")
    alive = layout.shards(step=2, writer="a2-0000bbbb")
    store.put(dead.child("rank-0/optimizer.pt"), b"orphan")
    store.put(alive.child("rank-1/optimizer.pt"), b"being written")
    open_upload = dead.child("rank-0/big.pt")
    s3_server.client().create_multipart_upload(Bucket=open_upload.bucket, Key=open_upload.key)
    next_attempt = make_writer(writer="a2-0000bbbb", attempt=2, orphan_age=0)
    commit_steps(next_attempt, staged, {2: None})
    assert store.list(dead) == []
    assert store.exists(alive.child("rank-1/optimizer.pt"))
    assert assert_consistent(store, layout) == [1, 2]
    uploads = s3_server.client().list_multipart_uploads(Bucket=dead.bucket, Prefix=layout.root.key)
    assert uploads.get("Uploads", []) == []


def test_an_outage_costs_one_save_and_no_waiting(
    make_writer: Make, store: Store, layout: RunLayout, staged: Callable[..., Path], proxy: S3FaultProxy
) -> None:
    writer = make_writer(budget=RetryBudget(seconds=1, first_contact=1))
    outage = proxy.inject(Kind.REFUSE, "PUT", "", times=10_000, status=500, code="InternalError")
    start = time.monotonic()
    writer.submit(1, staged(1), META)
    assert time.monotonic() - start < 1
    assert writer.drain(SECONDS)
    assert (writer.failed, writer.poll()) == (1, [])
    assert "keeps failing at PutObject" in writer.last_error
    outage.times = 0
    commit_steps(writer, staged, {2: None})
    assert assert_consistent(store, layout) == [2]


@pytest.mark.parametrize("kind", [Kind.LOSE_REPLY, Kind.RESET])
def test_a_commit_whose_reply_is_lost_counts_once(
    make_writer: Make,
    store: Store,
    layout: RunLayout,
    staged: Callable[..., Path],
    proxy: S3FaultProxy,
    kind: Kind,
) -> None:
    proxy.inject(kind, "PUT", "00000001.json")
    writer = make_writer()
    commit_steps(writer, staged, {1: None})
    assert writer.failed == 0
    assert assert_consistent(store, layout) == [1]
