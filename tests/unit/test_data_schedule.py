"""The one definition of how many steps a run has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.schedule import schedule


@pytest.mark.parametrize(
    ("sequences", "epochs", "max_steps", "batch", "per_step", "steps"),
    [
        (128, 1, None, 64, 64, 2),
        (100, 1, None, 64, 64, 2),  # the rest of the epoch is filled up from the next
        (100, 3, None, 64, 64, 5),  # 300 / 64, the epochs joined
        (100, 0.5, None, 10, 10, 5),
        (10, 0.3, None, 1, 1, 3),  # exactly, though 0.3 * 10 is not 3 in binary
        (10, 0.01, None, 4, 4, 1),  # never no step
        (7, 3, None, 64, 7, 3),  # fewer sequences than the batch: one step an epoch
        (7, None, 5, 64, 7, 5),
        (1000, None, 5, 64, 64, 5),
    ],
)
def test_steps(sequences, epochs, max_steps, batch, per_step, steps):
    plan = schedule(sequences, epochs=epochs, max_steps=max_steps, global_batch_size=batch)
    assert (plan.sequences_per_step, plan.total_steps) == (per_step, steps)


@given(st.integers(1, 5000), st.floats(0.01, 20), st.integers(1, 512))
def test_every_sequence_asked_for_is_read_and_less_than_a_step_more(sequences, epochs, batch):
    plan = schedule(sequences, epochs=epochs, max_steps=None, global_batch_size=batch)
    read = plan.cursor(plan.total_steps)
    assert read >= epochs * sequences - 1e-6
    assert read - plan.sequences_per_step < epochs * sequences + 1e-6


def test_cursor_and_epoch():
    plan = schedule(100, epochs=2, max_steps=None, global_batch_size=64)
    assert plan.cursor(0) == 0
    assert plan.cursor(3) == 192
    assert plan.epoch(3) == pytest.approx(1.92)


@pytest.mark.parametrize(("epochs", "max_steps"), [(None, None), (1.0, 5)])
def test_refuses_no_length_and_two(epochs, max_steps):
    with pytest.raises(ValueError, match="exactly one"):
        schedule(10, epochs=epochs, max_steps=max_steps, global_batch_size=4)


def test_refuses_nothing_to_train_on():
    with pytest.raises(ValueError, match="no sequences"):
        schedule(0, epochs=1, max_steps=None, global_batch_size=4)
