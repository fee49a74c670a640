"""Policy of the stage `export`: it writes the result; then the job has succeeded."""

from finetune_api.reasons import Phase, Reason
from finetune_operator.reconcile.launch import activity
from finetune_operator.reconcile.scene import Scene, Step
from finetune_operator.reconcile.success import succeed


def proceed(scene: Scene) -> Step:
    """Return the step while the pod runs."""
    return Step(
        phase=Phase.EXPORTING,
        reason=Reason.EXPORTING,
        message=activity(scene.blueprint(scene.stage, scene.attempt)),
    )


def complete(scene: Scene) -> Step:
    """Return the step when the result is written."""
    return succeed(scene)
