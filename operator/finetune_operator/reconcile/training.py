"""Policy of the stage `train`: one attempt runs on all its pods until it ends; then the weights are exported."""

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile.launch import count_nodes, launch
from finetune_operator.reconcile.scene import Scene, Step


def proceed(scene: Scene) -> Step:
    """Return the step once all pods run; from here the attempt never goes back to Starting."""
    return Step(
        phase=Phase.RUNNING,
        reason=Reason.RUNNING,
        message=f"{scene.label} trains on {count_nodes(scene.num_pods)}",
    )


def complete(scene: Scene) -> Step:
    """Return the step when training is done: the export."""
    return launch(scene, Stage.EXPORT, scene.status.restarts.export + 1)
