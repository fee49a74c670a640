"""Which rows are used: no repeat in a later split, duplicates as asked for, weights and replay counted out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import Data
from finetune_trainer.prepare.selection import Known, firsts, select
from finetune_trainer.prepare.sources import LISTS

SOURCE = [{"uri": "s3://bucket/rows.jsonl"}]


def known(rows: str, copies: list[int] | None = None) -> Known:
    """Return what is known of rows that are letters: the same letter is the same row."""
    values = np.array([[7, ord(row)] for row in rows], np.uint64).reshape(-1, 2)
    samples = np.array([ord(row) * 1000 % 77 for row in rows], np.uint64)
    return Known(values, np.array(copies if copies else [1] * len(rows), np.uint8), samples)


def chosen(lists: dict[str, str], copies: list[int] | None = None, **data):
    """Return the letters of each list that are used, and the selection."""
    everything = {name: known(lists.get(name, ""), copies if name == "train" else None) for name in LISTS}
    first = firsts(np.concatenate([everything[name].digests for name in LISTS]))
    selection = select(everything, first, Data.model_validate({"train": SOURCE, **data}))
    return {name: "".join(lists[name][row] for row in selection.rows[name]) for name in lists}, selection


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=50))
def test_the_first_of_equal_rows_is_found(rows):
    first = firsts(np.array(rows, np.uint64).reshape(-1, 2))
    assert first.tolist() == [rows.index(row) for row in rows]


@pytest.mark.parametrize(
    ("mode", "train"),
    [("none", "deedf"), ("exact", "def")],
)
def test_repeats_of_training_rows_are_kept_unless_asked_for(mode, train):
    found, selection = chosen({"train": "deedf"}, deduplicate=mode)
    assert found == {"train": train}
    assert (selection.duplicates, selection.leaked) == (2, 0)


def test_a_test_row_is_neither_validated_with_nor_trained_on():
    lists = {"test": "ab", "validation": "bc", "train": "abcd", "replay": "da"}
    found, selection = chosen(lists, deduplicate="exact", test=SOURCE, validation=SOURCE)
    assert found == {"test": "ab", "validation": "c", "train": "d", "replay": ""}
    assert (selection.leaked, selection.held_out_repeats, selection.duplicates) == (4, 1, 1)


def test_a_given_list_keeps_its_rows_unless_duplicates_are_to_go():
    lists = {"test": "aab", "validation": "bc", "train": "bcdd"}
    found, selection = chosen(lists, test=SOURCE, validation=SOURCE)
    assert found == {"test": "aab", "validation": "bc", "train": "dd"}
    assert (selection.leaked, selection.duplicates) == (2, 1)


def test_a_row_to_replay_may_repeat_a_training_row_unless_duplicates_are_to_go():
    replay = {"sources": SOURCE, "fraction": 0.5}
    lists = {"train": "ab", "replay": "ab"}
    assert chosen(lists, replay=replay)[0]["replay"] == "ab"
    assert chosen(lists, replay=replay, deduplicate="exact")[0]["replay"] == ""


def test_rows_that_were_split_off_give_way_to_a_given_test_list():
    found, _ = chosen({"test": "ab", "validation": "ac", "train": "d"}, test=SOURCE)
    assert found == {"test": "ab", "validation": "c", "train": "d"}


def test_weights_repeat_rows_after_duplicates_are_gone():
    found, _ = chosen({"train": "aab"}, copies=[3, 1, 2], deduplicate="exact")
    assert found == {"train": "aaabb"}


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 4), (0.2, 1), (0.9, 6)])
def test_replay_is_its_fraction_of_the_rows_while_there_are_enough(fraction, count):
    replay = {"sources": SOURCE, "fraction": fraction}
    found, selection = chosen({"train": "abcd", "replay": "uvwxyz"}, replay=replay)
    assert len(found["replay"]) == count
    assert selection.replay_missing == (30 if fraction == 0.9 else 0)
    # Those with the lowest places, in the order they were read.
    lowest = sorted("uvwxyz", key=lambda row: ord(row) * 1000 % 77)[:count]
    assert found["replay"] == "".join(sorted(lowest))


def test_replay_counts_the_repeats_of_weights():
    replay = {"sources": SOURCE, "fraction": 0.5}
    found, _ = chosen({"train": "ab", "replay": "uvwxyz"}, copies=[3, 1], replay=replay)
    assert Counter(found["train"]) == {"a": 3, "b": 1}
    assert len(found["replay"]) == 4
