"""What is deleted, and above all what never is."""

from datetime import UTC, datetime, timedelta

import pytest
from checkpoint_builders import commit
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.checkpoint.discover import Found
from finetune_trainer.checkpoint.retention import Group, groups_of, orphans, outlived, superseded
from finetune_trainer.storage import ObjectInfo

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


TABLE = [
    # losses by step, keepLast, keepBest, deleted steps
    ({1: None, 2: None, 3: None}, 2, 1, {1}),
    ({1: None, 2: None, 3: None}, 1, 0, {1, 2}),
    ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, 1, 1, {2, 3}),
    ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, 1, 2, {3}),
    ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, 1, 0, {2, 3}),  # the best is kept even so
    ({1: 0.1, 2: 0.1, 3: 0.1}, 1, 1, {2}),  # of equals the first is the best, as for the export
    ({1: 0.1, 2: None, 3: None, 4: None}, 2, 1, {2}),
    ({1: 0.5}, 1, 1, set()),
    ({}, 1, 1, set()),
]


@pytest.mark.parametrize(("losses", "keep_last", "keep_best", "deleted"), TABLE)
def test_superseded(losses: dict[int, float | None], keep_last: int, keep_best: int, deleted: set[int]) -> None:
    commits = [commit(step, eval_loss=loss) for step, loss in losses.items()]
    assert {one.step for one in superseded(commits, keep_last=keep_last, keep_best=keep_best)} == deleted


LOSSES = st.dictionaries(st.integers(0, 1000), st.none() | st.floats(0, 10), max_size=20)


@given(losses=LOSSES, keep_last=st.integers(1, 5), keep_best=st.integers(0, 5))
def test_the_newest_and_the_best_are_never_deleted(
    losses: dict[int, float | None], keep_last: int, keep_best: int
) -> None:
    commits = [commit(step, eval_loss=loss) for step, loss in losses.items()]
    deleted = {one.step for one in superseded(commits, keep_last=keep_last, keep_best=keep_best)}
    kept = set(losses) - deleted
    assert set(sorted(losses)[-keep_last:]) <= kept
    evaluated = [(loss, step) for step, loss in losses.items() if loss is not None]
    if evaluated:
        assert min(evaluated)[1] in kept
    assert len(kept) <= keep_last + max(1, keep_best)
    rest = [one for one in commits if one.step in kept]
    assert superseded(rest, keep_last=keep_last, keep_best=keep_best) == []


def test_unusable_commits_go_once_a_newer_one_is_usable() -> None:
    good, bad, unreadable = Found(5, commit(5), False), Found(3, commit(3), True), Found(2, None, False)
    newer_bad = Found(9, commit(9), True)
    assert outlived([unreadable, bad, good, newer_bad]) == [unreadable, bad]
    assert outlived([unreadable, bad, newer_bad]) == []


def info(key: str, age: timedelta = timedelta(0)) -> ObjectInfo:
    return ObjectInfo(key, 1, '"e"', NOW - age)


def test_objects_are_grouped_by_step_and_writer() -> None:
    objects = [
        info("r/data/00000001-a1-x/rank-0/f", timedelta(hours=2)),
        info("r/data/00000001-a1-x/rank-0.json", timedelta(hours=1)),
        info("r/data/00000002-a12-y/rank-0/f"),
        info("r/data/something-else"),
    ]
    assert groups_of(objects, "r/data") == [
        Group(1, "a1-x", 1, NOW - timedelta(hours=1)),
        Group(2, "a12-y", 12, NOW),
    ]


OLD, FRESH = NOW - timedelta(hours=1), NOW
BEFORE = NOW - timedelta(minutes=20)
ORPHANS = [
    # group, whether it is deleted by writer a3-me after its commit of step 50
    (Group(40, "a1-x", 1, OLD), True),
    (Group(40, "a1-x", 1, FRESH), False),  # its uploader may still be at it
    (Group(99, "a2-x", 2, OLD), True),
    (Group(10, "a1-x", 1, OLD), False),  # committed
    (Group(40, "a3-me", 3, FRESH), True),  # a save of ours that failed
    (Group(50, "a3-me", 3, FRESH), False),
    (Group(51, "a3-me", 3, FRESH), False),  # being written
    (Group(40, "a3-other", 3, OLD), False),
    (Group(40, "a4-next", 4, OLD), False),  # a later attempt: then we are the ghost
]


@pytest.mark.parametrize(("group", "dead"), ORPHANS)
def test_orphans(group: Group, dead: bool) -> None:
    found = orphans([group], {(10, "a1-x")}, writer="a3-me", attempt=3, step=50, before=BEFORE)
    assert found == ([group] if dead else [])


GROUPS = st.builds(
    lambda step, attempt, who, old: Group(step, f"a{attempt}-{who}", attempt, OLD if old else FRESH),
    st.integers(0, 9),
    st.integers(1, 4),
    st.sampled_from(["me", "x"]),
    st.booleans(),
)


@given(groups=st.lists(GROUPS), attempt=st.integers(1, 4), step=st.integers(0, 9), data=st.data())
def test_what_a_commit_refers_to_is_never_an_orphan(
    groups: list[Group], attempt: int, step: int, data: st.DataObject
) -> None:
    committed = data.draw(
        st.sets(st.sampled_from([(one.step, one.writer) for one in groups])) if groups else st.just(set())
    )
    dead = orphans(groups, committed, writer=f"a{attempt}-me", attempt=attempt, step=step, before=BEFORE)
    assert not committed & {(one.step, one.writer) for one in dead}
    assert all(one.attempt <= attempt for one in dead)


def test_the_best_by_another_metric_is_kept() -> None:
    scores = {1: (0.2, 0.7), 2: (0.3, 0.9), 3: (0.4, 0.8), 4: (0.5, 0.6)}
    commits = [commit(step, eval_loss=loss).model_copy(update={"eval_f1": f1}) for step, (loss, f1) in scores.items()]
    kept = {"keep_last": 1, "keep_best": 1}
    assert [one.step for one in superseded(commits, **kept)] == [2, 3]
    assert [one.step for one in superseded(commits, **kept, metric="f1")] == [1, 3]
