"""Policy: whether the validation scores still gain. What it remembers is in every checkpoint, for a resumed run."""

from finetune_api.spec import EarlyStopping, Evaluation
from finetune_api.status import Validation
from finetune_trainer.train.state import RunState


def scored(state: RunState, found: Validation, settings: Evaluation) -> RunState:
    """Return the state after an evaluation."""
    metric, stopping = settings.best_metric, settings.early_stopping
    merit = found.merit(metric)
    # What was gained by another metric, before the spec was changed, says nothing of this one.
    standing = state.merit_at_gain if state.metric == metric else None
    least_gain = stopping.min_delta if stopping else 0.0
    gains = merit is not None and (standing is None or merit > standing + least_gain)
    return state.model_copy(
        update={
            **found.scores,
            "metric": metric,
            "merit_at_gain": merit if gains else standing,
            "evaluations_without_gain": 0 if gains else state.evaluations_without_gain + 1,
        }
    )


def is_over(state: RunState, settings: EarlyStopping | None) -> bool:
    """Whether training ends here."""
    return settings is not None and state.evaluations_without_gain >= settings.patience
