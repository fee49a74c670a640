"""The commit protocol against a model of S3, interrupted after every single operation and by chance.

What must hold whatever is interrupted: no commit refers to an object that is missing or altered, a checkpoint that
was acknowledged is never lost, and resuming finds the newest one.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Commit, FileEntry, RunLayout
from finetune_api.spec import S3Storage
from finetune_api.status import Validation
from finetune_api.uris import S3Location
from finetune_trainer.checkpoint import CommitMeta, WriterSettings, commit, find_commit, read_commits, retention
from finetune_trainer.checkpoint.commit import gather_ranks, put_commit, upload_rank
from finetune_trainer.checkpoint.discover import mark_bad, shards_of
from finetune_trainer.checkpoint.records import Save
from finetune_trainer.checkpoint.retention import tidy
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import ObjectInfo
from finetune_trainer.storage.digest import sha256_of
from finetune_trainer.storage.transfer import writer_of

META = CommitMeta(zero_stage=0, consumed_sequences=1, config_digest="c")


class Killed(Exception):  # noqa: N818 - an event
    """The process dies here."""


class ModelStore:
    """S3 as the protocol sees it: atomic single operations, consistent listings, and death after `budget` of them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.ages: dict[str, datetime] = {}
        self.budget: int | None = None
        self.operations = 0

    def _step(self) -> None:
        """Die before the operation that is one too many."""
        self.operations += 1
        if self.budget is not None:
            if self.budget == 0:
                raise Killed
            self.budget -= 1

    def list(self, prefix: S3Location) -> Any:
        self._step()
        found = sorted(key for key in self.objects if key.startswith(f"{prefix.key}/"))
        return [ObjectInfo(key, len(self.objects[key]), '"e"', self.ages[key]) for key in found]

    def read(self, location: S3Location) -> bytes:
        self._step()
        if location.key not in self.objects:
            raise StageFailure(ExitCode.INVALID, Reason.OBJECT_NOT_FOUND, location.uri)
        return self.objects[location.key]

    def read_if_there(self, location: S3Location) -> bytes | None:
        self._step()
        return self.objects.get(location.key)

    def put(self, location: S3Location, data: bytes) -> FileEntry:
        self._step()
        self.objects[location.key] = data
        self.ages[location.key] = datetime.now(UTC)
        return FileEntry(key=location.key, size=len(data), sha256=sha256_of(data))

    def put_new(self, location: S3Location, data: bytes, *, writer: str) -> bool:
        if location.key in self.objects:
            self._step()
            return writer_of(self.objects[location.key]) == writer
        self.put(location, data)
        return True

    def upload_all(self, directory: Path, prefix: S3Location, on_bytes: Callable[[int], None]) -> Any:
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        on_bytes(1)
        return [self.put(prefix.child(path.relative_to(directory).as_posix()), path.read_bytes()) for path in paths]

    def delete(self, locations: Any) -> None:
        for location in locations:
            self._step()
            self.objects.pop(location.key, None)

    def abort_multipart(self, prefix: S3Location, *, older_than: timedelta) -> int:
        self._step()
        return 0


class Run:
    """One job: its store, its attempts, and what was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: Any = ModelStore()
        self.layout = RunLayout("s3://bucket/runs", "uid")
        self.attempt = 1
        self.acknowledged: set[int] = set()
        self.altered: set[int] = set()

    def settings(self, rank: int = 0, world_size: int = 2) -> WriterSettings:
        return WriterSettings(
            s3=S3Storage(),
            layout=self.layout,
            writer=f"a{self.attempt}-{self.attempt:08d}",
            rank=rank,
            world_size=world_size,
            attempt=self.attempt,
            keep_last=2,
            keep_best=1,
            rank_deadline=-1,
            orphan_age=0,
        )

    def save(self, step: int, eval_loss: float | None = None) -> None:
        """Rank 1, then rank 0 with commit and tidying, as their uploaders do it."""
        for rank in (1, 0):
            folder = self.folder / secrets.token_hex(4)
            folder.mkdir()
            (folder / "shard").write_bytes(secrets.token_bytes(8))
            request = Save(step, folder, replace(META, validation=Validation(eval_loss=eval_loss)))
            upload_rank(self.store, self.settings(rank), request, lambda _: None)
        files = gather_ranks(self.store, self.settings(), step)
        put_commit(self.store, self.settings(), request, files)
        self.acknowledged.add(step)
        tidy(self.store, self.settings(), step)

    def save_until_killed(self, step: int, budget: int, eval_loss: float | None = None) -> bool:
        """Return whether the save and its tidying came to their end before the budget did."""
        self.store.budget = budget
        try:
            self.save(step, eval_loss)
        except Killed:
            return False
        finally:
            self.store.budget = None
        return True

    def resume(self) -> int:
        """Start the next attempt; return the step it goes on from."""
        self.attempt += 1
        found = find_commit(self.store, self.layout, "c")
        return found.step if found else 0

    def broken_commits(self) -> Iterator[tuple[Commit, str]]:
        for one in read_commits(self.store, self.layout):
            for entry in one.files:
                if sha256_of(self.store.objects.get(entry.key, b"")) != entry.sha256:
                    yield one, entry.key


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(commit.time, "sleep", lambda seconds: None)
    return Run(tmp_path)


def operations_of_a_save(tmp_path: Path) -> int:
    counting = Run(tmp_path)
    counting.save(10, 0.1)
    before = counting.store.operations
    counting.save(20, 0.2)
    counting.save(30, 0.3)
    return max(before, counting.store.operations - before)


def test_death_after_every_single_operation(tmp_path: Path, run: Run) -> None:
    total = operations_of_a_save(tmp_path)
    assert total > 20
    step = 0
    for budget in range(total + 1):
        step += 10
        run.save(step, eval_loss=float(step))
        acknowledged = max(run.acknowledged)
        run.save_until_killed(step + 5, budget)
        assert list(run.broken_commits()) == []
        assert run.resume() in (acknowledged, step + 5)
        assert run.resume() >= max(run.acknowledged)
        step += 5
    assert run.acknowledged >= {step}  # the last budget was enough for a whole save
    steps = [one.step for one in read_commits(run.store, run.layout)]
    assert steps == [10, step - 5, step]  # the best, and the last two
    data = {key.split("/")[3] for key in run.store.objects if "/data/" in key}
    assert len(data) == 3  # nothing that died is left


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 60), st.none() | st.floats(0, 1)),
        st.tuples(st.just("alter"), st.integers(0, 5), st.none()),
        st.tuples(st.just("lose"), st.integers(0, 5), st.none()),
        st.tuples(st.just("resume"), st.just(0), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_any_course_of_events_resumes_from_a_whole_checkpoint(tmp_path: Path, events: list[Any]) -> None:
    run = Run(tmp_path)
    step, damaged = 0, False
    for kind, number, loss in events:
        if kind == "save":
            step += 1
            if not run.save_until_killed(step, number, loss):
                step = run.resume()
        elif kind == "resume":
            step = run.resume()
        else:
            damaged = damage(run, kind, number) or damaged
        if not damaged:
            assert list(run.broken_commits()) == []
            assert run.acknowledged == set() or step >= max(run.acknowledged)
    # Without further damage the run goes on and keeps what it commits.
    step = verified_resume(run) + 1
    run.save(step)
    assert run.resume() == step


def damage(run: Run, kind: str, number: int) -> bool:
    """Alter or lose one object of one commit."""
    commits = read_commits(run.store, run.layout)
    if not commits:
        return False
    one = commits[number % len(commits)]
    key = one.files[number % len(one.files)].key
    if kind == "lose":
        run.store.objects.pop(key, None)
    elif key in run.store.objects:
        run.store.objects[key] = b"x" * len(run.store.objects[key])
    return True


def verified_resume(run: Run) -> int:
    """Resume as `fetch_commit` does: the digests are compared, and a commit that fails is marked."""
    while found := find_commit(run.store, run.layout, "c"):
        if all(sha256_of(run.store.objects[entry.key]) == entry.sha256 for entry in found.files):
            break
        mark_bad(run.store, run.layout, found.step, "altered")
    run.attempt += 1
    return found.step if found else 0


def test_the_committer_refuses_what_is_not_all_there(run: Run) -> None:
    folder = run.folder / "one"
    folder.mkdir()
    (folder / "shard").write_bytes(b"x")
    request = Save(1, folder, META)
    upload_rank(run.store, run.settings(0, 1), request, lambda _: None)
    files = gather_ranks(run.store, run.settings(0, 1), 1)
    run.store.objects.pop(files[0].key)
    with pytest.raises(StageFailure, match="shard is missing"):
        put_commit(run.store, run.settings(0, 1), request, files)
    assert read_commits(run.store, run.layout) == []


def test_orphans_keep_their_place_while_an_attempt_may_live(run: Run) -> None:
    run.save_until_killed(1, 3)
    left = len(run.store.objects)
    run.attempt = 2
    retention.collect_orphans(run.store, replace(run.settings(), orphan_age=3600), 0)
    assert len(run.store.objects) == left
    retention.collect_orphans(run.store, run.settings(), 0)
    assert run.store.objects == {}


def test_the_prefix_of_a_commit_is_its_writers(run: Run) -> None:
    run.save(3)
    found = find_commit(run.store, run.layout, "c")
    assert found is not None
    assert shards_of(run.layout, found).key == "runs/uid/data/00000003-a1-00000001"
    assert all(entry.key.startswith("runs/uid/data/00000003-a1-00000001/rank-") for entry in found.files)
