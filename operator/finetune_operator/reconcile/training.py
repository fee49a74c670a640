"""Policy of the stage `train`: one attempt runs on all its pods until it ends; then the weights are exported."""

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.manifests import build_policies
from finetune_operator.reconcile.launch import SETTLE_SECONDS, count_nodes, launch
from finetune_operator.reconcile.scene import Scene, Step


def proceed(scene: Scene) -> Step:
    """Return the step once all pods run; from here the attempt never goes back to Starting.

    Ranks that cannot meet say nothing. The policy that lets them may have been deleted by somebody and is not
    watched; as long as an attempt is silent it is created again every half minute. Ranks that have ended need none,
    and a Job may be marked as ended long after them: its controller has 20 requests a second for all Jobs.
    """
    silence = _seconds_of_silence(scene) if scene.observed.settings.network_policies else None
    lost = silence is not None and silence >= SETTLE_SECONDS
    return Step(
        phase=Phase.RUNNING,
        reason=Reason.RUNNING,
        message=f"{scene.label} trains on {count_nodes(scene.num_pods)}",
        children=build_policies(scene.blueprint(scene.stage, scene.attempt)) if lost else (),
        requeue_after=None if silence is None else SETTLE_SECONDS - silence % SETTLE_SECONDS,
    )


def _seconds_of_silence(scene: Scene) -> float | None:
    """Return for how long an attempt of several pods runs without a word, None once it has spoken or ended."""
    progress, began = scene.status.progress, scene.status.phase_time
    has_ended = all(pod.is_terminal for pod in scene.pods)
    if scene.num_pods == 1 or has_ended or (progress is not None and progress.attempt == scene.attempt):
        return None
    if scene.status.phase is not Phase.RUNNING or began is None:
        return 0.0
    return (scene.now - began).total_seconds()


def complete(scene: Scene) -> Step:
    """Return the step when training is done: the export."""
    return launch(scene, Stage.EXPORT, scene.status.restarts.export + 1)
