"""Splitting: by the row's content alone, in the shares asked for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.spec import Data
from finetune_trainer.prepare.split import Shares, assign, shares_of

KNOWN = ["test", "test", "test", "train", "train", "train", "test", "train"]
ROWS = [f"row {number}".encode() for number in range(20_000)]


def test_shares_are_kept():
    counts = Counter(assign(row, Shares(validation=0.1, test=0.2, seed=42)) for row in ROWS)
    assert counts["validation"] == pytest.approx(2000, rel=0.1)
    assert counts["test"] == pytest.approx(4000, rel=0.1)


@given(st.binary(), st.integers(0, 2**31 - 1))
def test_a_row_keeps_its_place(row, seed):
    shares = Shares(validation=0.3, test=0.3, seed=seed)
    assert assign(row, shares) == assign(bytes(row), shares)


def test_a_larger_test_share_moves_no_test_row():
    small, large = Shares(validation=0, test=0.1, seed=1), Shares(validation=0, test=0.2, seed=1)
    assert all(assign(row, large) == "test" for row in ROWS if assign(row, small) == "test")


def test_known_rows_stay_where_they_were():
    """The assignment is part of what a run means: it must not change between releases."""
    found = [assign(row, Shares(validation=0.25, test=0.25, seed=42)) for row in ROWS[:8]]
    assert found == KNOWN


def test_seeds_differ():
    first = [assign(row, Shares(validation=0.2, test=0.2, seed=1)) for row in ROWS[:100]]
    assert first != [assign(row, Shares(validation=0.2, test=0.2, seed=2)) for row in ROWS[:100]]


SOURCE = [{"uri": "s3://bucket/rows.jsonl"}]


@pytest.mark.parametrize(
    ("data", "validation", "test"),
    [
        ({}, 0.1, 0.1),
        ({"test": SOURCE}, 0.1, 0),
        ({"validation": SOURCE, "test": SOURCE}, 0, 0),
        ({"split": {"validation": 0.3, "test": 0}}, 0.3, 0),
    ],
)
def test_given_lists_win_over_shares(data, validation, test):
    shares = shares_of(Data.model_validate({"train": SOURCE, **data}))
    assert (shares.validation, shares.test, shares.seed) == (validation, test, 42)
