"""The steps of a save: upload the rank's files, list them, wait for all ranks, put the commit.

Each step leaves S3 in a state from which the run goes on: until the commit is put, nothing refers to what was
uploaded. No rank waits for another one but rank 0's uploader, and that by looking into S3, not by a collective.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Commit, FileEntry, RankFiles, RunLayout
from finetune_api.status import Validation
from finetune_api.uris import S3Location
from finetune_trainer.checkpoint.discover import defect, is_marked, object_sizes
from finetune_trainer.checkpoint.records import Save, WriterSettings
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store
from finetune_trainer.storage.transfer import writer_of

_FIRST_LOOK_SECONDS = 0.2
_LONGEST_LOOK_SECONDS = 5.0


def upload_rank(store: Store, settings: WriterSettings, save: Save, on_bytes: Callable[[int], None]) -> None:
    """Upload this rank's folder, then the list of its objects with their digests; `on_bytes` is called by threads."""
    prefix = settings.layout.shards(step=save.step, writer=settings.writer)
    files = store.upload_all(save.directory, prefix.child(f"rank-{settings.rank}"), on_bytes)
    listing = RankFiles(writer=settings.writer, rank=settings.rank, step=save.step, files=files)
    store.put(_rank_file(prefix, settings.rank), listing.model_dump_json(by_alias=True).encode())


def gather_ranks(store: Store, settings: WriterSettings, step: int) -> list[FileEntry]:
    """Wait until every rank has listed its files; return all of them. Raises StageFailure after the deadline."""
    prefix = settings.layout.shards(step=step, writer=settings.writer)
    deadline = time.monotonic() + settings.rank_deadline
    missing = set(range(settings.world_size))
    files: list[FileEntry] = []
    look = _FIRST_LOOK_SECONDS
    while True:
        there = object_sizes(store, prefix)
        for rank in sorted(rank for rank in missing if _rank_file(prefix, rank).key in there):
            files += RankFiles.model_validate_json(store.read(_rank_file(prefix, rank))).files
            missing.discard(rank)
        if not missing:
            return files
        if time.monotonic() > deadline:
            raise _failed(
                step, f"ranks {sorted(missing)} did not upload their part in {settings.rank_deadline:.0f} s"
            )
        time.sleep(look)
        look = min(2 * look, _LONGEST_LOOK_SECONDS)


def put_commit(store: Store, settings: WriterSettings, save: Save, files: list[FileEntry]) -> Commit:
    """Check that every object is there and put the commit. Raises StageFailure when another attempt was first."""
    layout, writer = settings.layout, settings.writer
    commit = Commit(
        writer=writer,
        attempt=settings.attempt,
        step=save.step,
        world_size=settings.world_size,
        zero_stage=save.meta.zero_stage,
        consumed_sequences=save.meta.consumed_sequences,
        **save.meta.validation.scores,
        time=datetime.now(UTC),
        config_digest=save.meta.config_digest,
        files=files,
    )
    if wrong := defect(commit, object_sizes(store, layout.shards(step=save.step, writer=writer))):
        raise _failed(save.step, wrong)
    _publish(store, settings, commit)
    return commit


def add_score(store: Store, layout: RunLayout, *, step: int, found: Validation) -> None:
    """Write the validation scores into a commit that was made before its evaluation was done.

    This replaces an object by itself with a few numbers more: whichever of the two a reader gets is a whole commit.
    """
    location = layout.commit(step)
    commit = Commit.model_validate_json(store.read(location))
    store.put(location, commit.model_copy(update=found.scores).model_dump_json(by_alias=True).encode())


def _publish(store: Store, settings: WriterSettings, commit: Commit) -> None:
    location = settings.layout.commit(commit.step)
    data = commit.model_dump_json(by_alias=True).encode()
    if store.put_new(location, data, writer=settings.writer):
        return
    standing = store.read(location)
    # A commit that was found bad makes room for a good one of the same step.
    if is_marked(store, settings.layout, commit.step, standing):
        store.delete([location])
        if store.put_new(location, data, writer=settings.writer):
            return
    raise _failed(commit.step, f"{location.uri} was committed by {writer_of(standing)} before")


def _rank_file(prefix: S3Location, rank: int) -> S3Location:
    return prefix.child(f"rank-{rank}.json")


def _failed(step: int, cause: str) -> StageFailure:
    return StageFailure(
        ExitCode.STORAGE, Reason.STORAGE_FAILED, f"the checkpoint of step {step} is not committed: {cause}"
    )
