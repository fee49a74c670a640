"""Weights and samples: exact, stable, and the same in every release."""

import pytest

from finetune_trainer.prepare.sampling import PLACES, copies_of, place_of, replayed

ROWS = [f"row {number}".encode() for number in range(10_000)]
PLACES_OF_ROWS = [place_of(row, 42) for row in ROWS]


@pytest.mark.parametrize("weight", [0.1, 0.5, 1.0, 1.25, 2.0, 2.5, 100.0])
def test_an_epoch_reads_as_many_rows_as_the_weight_says(weight):
    copies = [copies_of(place, weight) for place in PLACES_OF_ROWS]
    assert set(copies) <= {int(weight), int(weight) + 1}
    assert sum(copies) == pytest.approx(weight * len(ROWS), rel=0.03)
    if weight.is_integer():
        assert set(copies) == {int(weight)}


def test_a_larger_weight_takes_no_row_away():
    small, large = ([copies_of(place, weight) for place in PLACES_OF_ROWS] for weight in (0.2, 0.3))
    assert all(more >= less for less, more in zip(small, large, strict=True))


def test_known_rows_have_known_places():
    """The place is part of what a run means: it must not change between releases."""
    assert place_of(b"row 0", 42) == 0x2C52BB6F437A27E5
    assert place_of(b"row 0", 43) != place_of(b"row 0", 42)
    assert all(0 <= place < PLACES for place in PLACES_OF_ROWS)


@pytest.mark.parametrize(("rows", "fraction", "wanted"), [(90, 0.1, 10), (100, 0.5, 100), (10, 0.9, 90), (0, 0.5, 0)])
def test_rows_to_replay_are_their_fraction_of_all(rows, fraction, wanted):
    assert replayed(rows, fraction) == wanted
