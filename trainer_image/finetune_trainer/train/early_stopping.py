"""Policy: whether the validation loss still falls. What it remembers is in every checkpoint, for a resumed run."""

from finetune_api.spec import EarlyStopping
from finetune_trainer.train.state import RunState


def scored(state: RunState, loss: float, settings: EarlyStopping | None) -> RunState:
    """Return the state after an evaluation."""
    lowest, least_gain = state.lowest_eval_loss, settings.min_delta if settings else 0.0
    gains = lowest is None or loss < lowest - least_gain
    return state.model_copy(
        update={
            "eval_loss": loss,
            "lowest_eval_loss": loss if gains else lowest,
            "evaluations_without_gain": 0 if gains else state.evaluations_without_gain + 1,
        }
    )


def is_over(state: RunState, settings: EarlyStopping | None) -> bool:
    """Whether training ends here."""
    return settings is not None and state.evaluations_without_gain >= settings.patience
