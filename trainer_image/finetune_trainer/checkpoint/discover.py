"""Finds the newest whole checkpoint, and falls back past those that are incomplete or altered.

A commit is taken when its record is readable, belongs to this run's configuration, and every object it lists is
there with the right size; digests are checked while it is fetched. One that fails is marked, not deleted: the mark
(`<step>.bad.json`) names the digest of the commit object it speaks of, so that a later good commit of the same
step is not hit by it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from finetune_api.base import Record
from finetune_api.reasons import Reason
from finetune_api.run import Commit, RunLayout
from finetune_api.status import CheckpointRef
from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import CorruptObject, Store
from finetune_trainer.storage.digest import sha256_of

_NAME = re.compile(r"/(\d{8,})(\.bad)?\.json$")


class BadMark(Record):
    """`commits/<step>.bad.json`."""

    commit_sha256: str = Field(description="Digest of the commit object that is bad.")
    cause: str = Field(description="What is wrong with it.")
    time: datetime = Field(description="When that was found, UTC.")


@dataclass(frozen=True)
class Found:
    """One commit object as it stands in S3."""

    step: int
    commit: Commit | None
    """None when the record cannot be read."""
    marked: bool


def checkpoint_ref(layout: RunLayout, commit: Commit) -> CheckpointRef:
    """Return the commit as the status names it."""
    return CheckpointRef(
        uri=layout.commit(commit.step).uri,
        step=commit.step,
        time=commit.time,
        size_bytes=commit.size_bytes,
        **commit.scores,
    )


def steps_of(keys: Iterable[str]) -> tuple[list[int], set[int]]:
    """Return the committed steps, newest first, and the steps that carry a mark."""
    names = [match for key in keys if (match := _NAME.search(key))]
    committed = {int(name[1]) for name in names if not name[2]}
    return sorted(committed, reverse=True), {int(name[1]) for name in names if name[2]}


def defect(commit: Commit, sizes: Mapping[str, int]) -> str | None:
    """Return what is wrong with a commit, given the sizes of the objects that exist; None if it is whole."""
    if not commit.files:
        return "it lists no objects"
    for entry in commit.files:
        if entry.key not in sizes:
            return f"{entry.key} is missing"
        if sizes[entry.key] != entry.size:
            return f"{entry.key} has {sizes[entry.key]} bytes instead of {entry.size}"
    return None


def find_commit(store: Store, layout: RunLayout, config_digest: str) -> Commit | None:
    """Return the newest whole commit of this configuration, or None; marks the bad ones it passes."""
    steps, marked = steps_of(info.key for info in store.list(layout.commits))
    for step in steps:
        found = _read(store, layout, step, marked)
        if found is None or found.marked:
            log.warning("commit-skipped", step=step, cause="it is marked bad" if found else "it is gone")
            continue
        if found.commit is None:
            mark_bad(store, layout, step, "its record cannot be read")
            continue
        if found.commit.config_digest != config_digest:
            log.warning("commit-skipped", step=step, cause="it belongs to another spec or other data")
            continue
        wrong = defect(found.commit, object_sizes(store, shards_of(layout, found.commit)))
        if wrong is None:
            return found.commit
        mark_bad(store, layout, step, wrong)
    return None


def fetch_commit(
    store: Store,
    layout: RunLayout,
    commit: Commit,
    directory: Path,
    select: Callable[[str], bool] = lambda name: True,
) -> bool:
    """Fetch a commit's files to `directory/rank-<r>/...` and verify them.

    `select` gets names such as `rank-0/weights/adapter_config.json`. Returns False when an object is gone or does
    not match its digest: the commit is marked bad then, and `find_commit` gives the one before.
    """
    prefix = shards_of(layout, commit)
    wanted = [entry for entry in commit.files if select(entry.key.removeprefix(f"{prefix.key}/"))]
    try:
        store.download_all(wanted, bucket=prefix.bucket, directory=directory, strip_prefix=prefix.key)
    except StageFailure as failure:
        if not isinstance(failure, CorruptObject) and failure.reason is not Reason.OBJECT_NOT_FOUND:
            raise
        mark_bad(store, layout, commit.step, failure.message)
        return False
    return True


def read_commits(store: Store, layout: RunLayout) -> list[Commit]:
    """Return the commits that are readable and not marked bad, oldest first; their objects are not checked."""
    return [item.commit for item in scan(store, layout) if item.commit is not None and not item.marked]


def scan(store: Store, layout: RunLayout) -> list[Found]:
    """Return every commit object, oldest first."""
    steps, marked = steps_of(info.key for info in store.list(layout.commits))
    found = [_read(store, layout, step, marked) for step in sorted(steps)]
    return [item for item in found if item is not None]


def mark_bad(store: Store, layout: RunLayout, step: int, cause: str) -> None:
    """Mark the commit of a step as bad."""
    log.error("commit-bad", step=step, uri=layout.commit(step).uri, cause=cause)
    digest = sha256_of(store.read(layout.commit(step)))
    mark = BadMark(commit_sha256=digest, cause=cause, time=datetime.now(UTC))
    store.put(layout.bad_commit(step), mark.model_dump_json(by_alias=True).encode())


def is_marked(store: Store, layout: RunLayout, step: int, data: bytes) -> bool:
    """Whether a commit object with this content is marked bad."""
    text = store.read_if_there(layout.bad_commit(step))
    if text is None:
        return False
    try:
        return BadMark.model_validate_json(text).commit_sha256 == sha256_of(data)
    except ValidationError:
        return False


def shards_of(layout: RunLayout, commit: Commit) -> S3Location:
    """Return the prefix of a commit's objects."""
    return layout.shards(step=commit.step, writer=commit.writer)


def object_sizes(store: Store, prefix: S3Location) -> dict[str, int]:
    """Return the sizes of the objects below a prefix by key."""
    return {info.key: info.size for info in store.list(prefix)}


def _read(store: Store, layout: RunLayout, step: int, marked: set[int]) -> Found | None:
    data = store.read_if_there(layout.commit(step))
    if data is None:
        return None
    bad = step in marked and is_marked(store, layout, step, data)
    try:
        return Found(step, Commit.model_validate_json(data), bad)
    except ValidationError:
        return Found(step, None, bad)
