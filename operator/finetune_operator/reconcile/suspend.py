"""Policy: suspend and resume.

Suspended is told first, then the attempt's Job (or the stage's pod) is deleted: its pods commit a checkpoint and end.
A stage that ends well just then counts; one that fails is settled first. Resumed, training gets a new attempt that
goes on from the newest commit, and a stage that was stopped runs again from its beginning.
"""

from dataclasses import replace

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.reconcile.facts import halted
from finetune_operator.reconcile.failure import unfinished
from finetune_operator.reconcile.launch import launch, wait_for
from finetune_operator.reconcile.run_identity import begin_anew, is_another_run
from finetune_operator.reconcile.scene import Scene, Step


def suspend(scene: Scene, stage: Stage) -> Step:
    """Hold the job before or in a stage."""
    status = scene.status
    changes = {"stage": stage.value, "progress": halted(status.progress)}
    if scene.is_busy:
        return Step(
            phase=Phase.SUSPENDED,
            reason=Reason.SUSPENDING,
            message="spec.suspend is set: the pods commit what they have and end",
            changes=changes,
            deletes=unfinished(scene.observed),
        )
    last = status.last_checkpoint
    where = f"from step {last.step}" if last else f"with stage {stage.value}"
    message = f"spec.suspend is set; set it to false to go on {where}"
    return Step(phase=Phase.SUSPENDED, reason=Reason.SUSPENDED, message=message, changes=changes)


def go_on(scene: Scene) -> Step:
    """Let a job that was suspended go on, once nothing of its last attempt lives."""
    if scene.is_busy:
        return Step(
            phase=Phase.SUSPENDED,
            reason=Reason.SUSPENDING,
            message=wait_for(scene),
            deletes=unfinished(scene.observed),
        )
    if is_another_run(scene):
        changes = {"stage": Stage.PREPARE.value, **begin_anew(scene)}
        fresh = replace(scene, status=scene.status.model_copy(update=changes))
        step = launch(fresh, Stage.PREPARE, fresh.attempt)
        return replace(step, changes={**changes, **step.changes})
    return launch(scene, scene.stage, scene.next_attempt)
