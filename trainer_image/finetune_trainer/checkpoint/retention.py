"""Deletes what is no longer needed: commits beyond keepLast and keepBest, and what dead attempts left behind.

Only rank 0's uploader deletes. A commit object goes before its data, so that an interruption leaves orphans and
never a commit with holes. The decisions are pure; `tidy` and `collect_orphans` carry them out.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from finetune_api.run import Commit, RunLayout
from finetune_api.spec.evaluation import BestMetric
from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.checkpoint.discover import Found, scan
from finetune_trainer.checkpoint.records import WriterSettings
from finetune_trainer.storage import ObjectInfo, Store

_GROUP = re.compile(r"^(\d{8,})-(a(\d+)-[^/]+)/")


class Group(NamedTuple):
    """The objects of one writer and step below `data/`."""

    step: int
    writer: str
    attempt: int
    newest: datetime


def superseded(
    commits: Sequence[Commit], *, keep_last: int, keep_best: int, metric: BestMetric = "loss"
) -> list[Commit]:
    """Return the commits to delete: never the newest, and never the best (the first of equals) if there is one."""
    newest_first = sorted(commits, key=lambda commit: commit.step, reverse=True)
    merits = [(merit, commit.step) for commit in commits if (merit := commit.merit(metric)) is not None]
    best_first = [step for _, step in sorted(merits, key=lambda scored: (-scored[0], scored[1]))]
    kept = {commit.step for commit in newest_first[: max(1, keep_last)]} | set(best_first[: max(1, keep_best)])
    return [commit for commit in commits if commit.step not in kept]


def outlived(found: Sequence[Found]) -> list[Found]:
    """Return the unusable commits that are older than a usable one: nobody will need to look at them again."""
    usable = [item.step for item in found if item.commit is not None and not item.marked]
    unusable = [item for item in found if item.commit is None or item.marked]
    return [item for item in unusable if usable and item.step < max(usable)]


def groups_of(objects: Iterable[ObjectInfo], data_prefix: str) -> list[Group]:
    """Return the groups below `data_prefix`, which has no trailing slash."""
    newest: dict[tuple[int, str, int], datetime] = defaultdict(lambda: datetime.min.replace(tzinfo=UTC))
    for info in objects:
        if match := _GROUP.match(info.key.removeprefix(f"{data_prefix}/")):
            key = int(match[1]), match[2], int(match[3])
            newest[key] = max(newest[key], info.modified)
    return [Group(*key, when) for key, when in sorted(newest.items())]


def orphans(
    groups: Iterable[Group],
    committed: set[tuple[int, str]],
    *,
    writer: str,
    attempt: int,
    step: int,
    before: datetime,
) -> list[Group]:
    """Return the groups that no commit will ever refer to.

    Those of earlier attempts untouched since `before`, because the operator starts an attempt only when all pods
    of the one before are gone; and those of this writer from before `step`, because one save runs at a time.
    """

    def is_dead(group: Group) -> bool:
        if group.writer == writer:
            return group.step < step
        return group.attempt < attempt and group.newest < before

    return [group for group in groups if (group.step, group.writer) not in committed and is_dead(group)]


def tidy(store: Store, settings: WriterSettings, step: int) -> None:
    """After the commit of `step`: delete superseded commits, then orphans."""
    layout = settings.layout
    found = scan(store, layout)
    usable = [item.commit for item in found if item.commit is not None and not item.marked]
    for commit in superseded(
        usable, keep_last=settings.keep_last, keep_best=settings.keep_best, metric=settings.best_metric
    ):
        _delete_commit(store, layout, commit.step)
        _delete_below(store, layout.shards(step=commit.step, writer=commit.writer))
    for item in outlived(found):
        _delete_commit(store, layout, item.step)
    collect_orphans(store, settings, step)


def collect_orphans(store: Store, settings: WriterSettings, step: int) -> None:
    """Delete data without a commit, and unfinished uploads, that nobody works on any more; `step` is the newest."""
    layout, age = settings.layout, timedelta(seconds=settings.orphan_age)
    # Data before commits: a commit that appears in between must be seen.
    groups = groups_of(store.list(layout.data), layout.data.key)
    committed = {(item.commit.step, item.commit.writer) for item in scan(store, layout) if item.commit is not None}
    before = datetime.now(UTC) - age
    dead = orphans(groups, committed, writer=settings.writer, attempt=settings.attempt, step=step, before=before)
    for group in dead:
        log.info("orphan-deleted", step=group.step, writer=group.writer)
        _delete_below(store, layout.shards(step=group.step, writer=group.writer))
    store.abort_multipart(layout.data, older_than=age)


def _delete_commit(store: Store, layout: RunLayout, step: int) -> None:
    log.info("commit-deleted", step=step)
    store.delete([layout.commit(step)])


def _delete_below(store: Store, prefix: S3Location) -> None:
    store.delete([S3Location(prefix.bucket, info.key) for info in store.list(prefix)])
