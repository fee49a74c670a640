"""Policy of the stage `prepare`: it checks storage, model and data, writes the token cache; then training starts."""

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile.launch import activity, launch
from finetune_operator.reconcile.scene import Scene, Step


def proceed(scene: Scene) -> Step:
    """Return the step while the pod runs."""
    return Step(
        phase=Phase.PREPARING,
        reason=Reason.PREPARING,
        message=activity(scene.blueprint(scene.stage, scene.attempt)),
    )


def complete(scene: Scene) -> Step:
    """Return the step when the data is prepared: the next attempt of training, as a rule the first."""
    return launch(scene, Stage.TRAIN, scene.status.attempt + 1)
