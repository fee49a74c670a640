"""Policy: why the pods of a stage do not run yet, and for how long that is borne.

The clock of preRunningDeadlineSeconds starts with the phase, so it also runs while the API server refuses the Job.
At the deadline the job fails with the specific cause as its reason, if one is known.
"""

import math
from datetime import datetime, timedelta

from finetune_api.reasons import Phase, Reason
from finetune_operator.manifests import build_probe
from finetune_operator.reconcile.causes import Wait, pod_wait, refusal_wait
from finetune_operator.reconcile.failure import fail, unfinished
from finetune_operator.reconcile.launch import PHASES, REASONS, SETTLE_SECONDS, activity, children, in_queue, wait_for
from finetune_operator.reconcile.scene import Scene, Step

LOOK_AGAIN_SECONDS = 30.0
"""Until a refused creation is tried again, or the API server asked anew why pods are missing."""


def await_pods(scene: Scene) -> Step | None:
    """Return the step of a stage whose pods do not all run yet, or None when they do or did."""
    if scene.job and scene.job.suspended:
        return Step(phase=Phase.QUEUED, reason=Reason.QUEUED, message=in_queue(scene))
    wait = explain_wait(scene)
    if wait is None:
        return None
    if wait.is_final:
        return fail(scene.observed, scene.status, reason=wait.reason or Reason.CRASHED, message=wait.message)
    left = scene.seconds_until(deadline(scene))
    if left <= 0:
        return _give_up(scene, wait)
    settling = scene.seconds_until(phase_start(scene)) + SETTLE_SECONDS if wait.reason is None else 0.0
    missing = scene.job is not None and settling <= 0 and len(scene.pods) < scene.num_pods
    return Step(
        phase=PHASES[scene.stage],
        reason=wait.reason or REASONS[scene.stage],
        message=wait.message if settling <= 0 else activity(scene.blueprint(scene.stage, scene.attempt)),
        children=children(scene, scene.stage, scene.attempt),
        deletes=tuple(one for one in unfinished(scene.observed) if one.name != scene.child_name),
        probes=(build_probe(scene.blueprint(scene.stage, scene.attempt)),) if missing else (),
        requeue_after=min(left, LOOK_AGAIN_SECONDS if missing else _recheck(wait, settling)),
    )


def explain_wait(scene: Scene) -> Wait | None:
    """Return why pods of the current stage do not run yet, the gravest cause first; None when all run or ran."""
    if scene.child is None and scene.is_busy:
        return Wait(None, wait_for(scene))
    refused = [refusal for refusal in scene.observed.refused if scene.is_hindered_by(refusal)]
    if scene.child is None:
        return refusal_wait(refused[0]) if refused else Wait(None, f"{scene.child_name} is being created")
    waits = [pod_wait(pod, scene.spec.storage.s3) for pod in scene.pods if pod.phase == "Pending"]
    if waits:
        return min(waits, key=lambda wait: wait.gravity)
    if len(scene.pods) >= scene.num_pods:
        return None
    if refused:
        return refusal_wait(refused[0])._replace(is_final=False)  # the Job controller tries on
    # Without their number: it would be a write of the status for each pod that comes.
    return Wait(
        None, f"not all of {scene.num_pods} pods are created yet; see kubectl describe job {scene.child_name}"
    )


def deadline(scene: Scene) -> datetime:
    """Return when the patience with the current phase ends."""
    return phase_start(scene) + timedelta(seconds=scene.spec.pre_running_deadline_seconds)


def phase_start(scene: Scene) -> datetime:
    """Return when the current phase began; a job that is new, or that its queue has just let go, begins now."""
    began = scene.status.phase_time
    return scene.now if began is None or scene.status.phase is Phase.QUEUED else began


def _recheck(wait: Wait, settling: float) -> float:
    """Return the seconds after which a wait is looked at again though no pod changed."""
    if wait.reason in (Reason.CREATION_REFUSED, Reason.QUOTA_EXCEEDED):
        return LOOK_AGAIN_SECONDS
    return settling if settling > 0 else math.inf


def _give_up(scene: Scene, wait: Wait) -> Step:
    patience = scene.spec.pre_running_deadline_seconds
    message = f"{scene.label}: pods did not run within {patience} s (spec.preRunningDeadlineSeconds): {wait.message}"
    reason = wait.reason or Reason.PRE_RUNNING_DEADLINE_EXCEEDED
    return fail(scene.observed, scene.status, reason=reason, message=message)
