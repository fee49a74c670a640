"""Which commit is taken, and what is wrong with the others."""

import pytest
from checkpoint_builders import commit
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.run import FileEntry, RunLayout
from finetune_trainer.checkpoint.discover import checkpoint_ref, defect, steps_of

LAYOUT = RunLayout("s3://bucket/runs", "uid")


def entry(key: str, size: int = 10) -> FileEntry:
    return FileEntry(key=key, size=size, sha256="0" * 64)


@given(steps=st.sets(st.integers(0, 100_000_000)), marked=st.sets(st.integers(0, 100_000_000)))
def test_steps_are_read_from_the_keys_newest_first(steps: set[int], marked: set[int]) -> None:
    keys = [LAYOUT.commit(step).key for step in steps] + [LAYOUT.bad_commit(step).key for step in marked]
    assert steps_of(keys) == (sorted(steps, reverse=True), marked)


@pytest.mark.parametrize(
    "key",
    ["commits/x.json", "commits/1.json", "commits/00000001.json.tmp", "00000001", "commits/00000001.worse.json"],
)
def test_other_objects_beside_the_commits_are_passed_over(key: str) -> None:
    assert steps_of([key]) == ([], set())


DEFECTS = [
    ([], {}, "it lists no objects"),
    ([entry("a"), entry("b")], {"a": 10, "b": 10}, None),
    ([entry("a"), entry("b")], {"a": 10, "b": 10, "more": 1}, None),
    ([entry("a"), entry("b")], {"a": 10}, "b is missing"),
    ([entry("a"), entry("b")], {"a": 10, "b": 9}, "b has 9 bytes instead of 10"),
    ([entry("a", 0)], {"a": 0}, None),
]


@pytest.mark.parametrize(("entries", "sizes", "wrong"), DEFECTS)
def test_a_commit_is_whole_or_its_defect_is_named(
    entries: list[FileEntry], sizes: dict[str, int], wrong: str | None
) -> None:
    assert defect(commit(1, *entries), sizes) == wrong


def test_the_reference_is_what_the_status_shows() -> None:
    ref = checkpoint_ref(LAYOUT, commit(7, entry("a", 3), entry("b", 4), eval_loss=0.5))
    assert (ref.uri, ref.step, ref.size_bytes, ref.eval_loss) == (
        "s3://bucket/runs/uid/commits/00000007.json",
        7,
        7,
        0.5,
    )
