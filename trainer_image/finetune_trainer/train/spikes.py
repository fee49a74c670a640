"""Policy: whether the loss of a step is a spike. What it is compared with is in every checkpoint, for a resumed run.

The loss is the mean over all processes, so that all of them decide alike.
"""

from statistics import median

from finetune_api.spec import LossSpike
from finetune_trainer.train.state import RunState


def noted(state: RunState, loss: float, settings: LossSpike | None) -> RunState:
    """Return the state after a step whose loss is no spike."""
    if settings is None:
        return state
    recent = [*state.recent_losses, loss][-settings.window :]
    return state.model_copy(update={"recent_losses": recent})


def spike(state: RunState, loss: float, settings: LossSpike | None) -> str | None:
    """Return how far a loss lies above those of the steps before, if that is a spike; None while they are too few."""
    if settings is None or len(state.recent_losses) < settings.window:
        return None
    usual = median(state.recent_losses[-settings.window :])
    if loss <= settings.threshold * usual:
        return None
    return (
        f"{loss:.4g}, more than {settings.threshold:g} times the median of the {settings.window} steps before it,"
        f" {usual:.4g} (spec.training.lossSpike)"
    )
