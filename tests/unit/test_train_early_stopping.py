"""When training ends before its last step."""

import pytest

from finetune_api.spec import EarlyStopping, Evaluation
from finetune_api.status import Validation
from finetune_trainer.train.early_stopping import is_over, scored
from finetune_trainer.train.state import RunState


def ends_after(losses, settings):
    """Return after which evaluation training ends, counted from 1; None: not at all."""
    state = RunState()
    for number, loss in enumerate(losses, 1):
        state = scored(state, Validation(eval_loss=loss), Evaluation(early_stopping=settings))
        if is_over(state, settings):
            return number
    return None


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "end"),
    [
        ([3.0, 2.0, 1.0], 1, 0.0, None),
        ([3.0, 3.0], 1, 0.0, 2),
        ([3.0, 3.1, 2.9, 3.0, 3.0], 2, 0.0, 5),
        ([3.0, 3.1, 3.2, 2.9], 3, 0.0, None),
        ([3.0, 2.95, 2.9, 2.85], 1, 0.1, 2),
        ([3.0, 2.95, 2.85, 2.8], 2, 0.1, None),
        ([3.0], 1, 0.0, None),
    ],
)
def test_patience_and_least_gain(losses, patience, min_delta, end):
    assert ends_after(losses, EarlyStopping(patience=patience, min_delta=min_delta)) == end


def test_without_settings_it_never_ends():
    assert ends_after([1.0] * 50, None) is None


def test_small_gains_add_up():
    """Measured from the last gain, not from the evaluation before: a slow fall is a fall."""
    assert ends_after([3.0, 2.96, 2.92, 2.88, 2.84, 2.8], EarlyStopping(patience=3, min_delta=0.1)) is None


def test_a_metric_of_labels_gains_by_rising_and_is_not_compared_with_a_loss():
    settings = Evaluation(best_metric="f1", early_stopping=EarlyStopping(patience=2))
    state = scored(RunState(), Validation(eval_loss=0.3), Evaluation())
    state = scored(state, Validation(eval_loss=0.9, eval_f1=0.5), settings)
    assert (state.evaluations_without_gain, state.eval_loss, state.eval_f1) == (0, 0.9, 0.5)
    for f1, without in ((0.4, 1), (0.6, 0), (0.6, 1), (0.5, 2)):
        state = scored(state, Validation(eval_loss=0.1, eval_f1=f1), settings)
        assert state.evaluations_without_gain == without
    assert is_over(state, settings.early_stopping)
