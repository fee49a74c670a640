"""Policy: restarts. Failures count against backoffLimit and wait longer each time; disruptions and stops are free.

A restart is a new Job: training gets the next attempt, prepare and export their next try. It is created when the
back-off is over and no pod lives any more. An attempt that ran out of memory is followed, free, by one that is told
how many did: it takes a plan that needs less, or says that none is left.
"""

import hashlib
from datetime import UTC, datetime, timedelta

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_api.status import FineTuneJobStatus, Restarts
from finetune_operator.reconcile.ending import Action, Verdict
from finetune_operator.reconcile.facts import halted
from finetune_operator.reconcile.failure import fail, unfinished
from finetune_operator.reconcile.launch import launch, wait_for
from finetune_operator.reconcile.scene import Scene, Step

FIRST_DELAY = 10.0
LONGEST_DELAY = 300.0
JITTER = 0.2
SHORT_SECONDS = 60.0
"""An attempt that was disrupted sooner than this after its last change of phase is not started again at once."""


def settle(scene: Scene, verdict: Verdict) -> Step:
    """Return what follows from a verdict: the end, or a restart."""
    counted = scene.status.restarts.counted
    limit = scene.spec.backoff_limit
    if verdict.action is Action.FAIL:
        return fail(scene.observed, scene.status, reason=verdict.reason, message=verdict.message)
    if verdict.action is Action.RETRY and counted >= limit:
        text = (
            f"{scene.label} failed and all {limit} retries (spec.backoffLimit) are used up; last failure:"
            f" {verdict.reason.value}: {verdict.message}"
        )
        reason = Reason.BACKOFF_LIMIT_EXCEEDED
        return fail(scene.observed, scene.status, reason=reason, message=text, cause=verdict.reason)
    return _restart(scene, verdict)


def resume(scene: Scene) -> Step:
    """Return the next step of a job that is restarting: wait on, or start the stage anew."""
    status = scene.status
    ready = ready_time(status, uid=scene.observed.job.uid)
    if scene.now >= ready and not scene.is_busy:
        return launch(scene, scene.stage, scene.next_attempt)
    backing_off = scene.now < ready
    return Step(
        phase=Phase.RESTARTING,
        reason=status.reason or Reason.CRASHED,
        message=(status.message or "") if backing_off else wait_for(scene),
        deletes=unfinished(scene.observed),
        requeue_after=(ready - scene.now).total_seconds() if backing_off else None,
    )


def ready_time(status: FineTuneJobStatus, *, uid: str) -> datetime:
    """Return when the back-off of a restarting job is over; a free restart of an attempt that ran has none.

    The delay doubles from 10 s to 5 min with each counted restart; it is 10 s where an attempt was stopped or
    disrupted before it ran for long, so that what ends every pod at once makes no storm. It is spread by a fifth to
    each side, by a hash instead of by chance, so that jobs that failed together do not come back together and every
    pass agrees.
    """
    start = status.phase_time or datetime.min.replace(tzinfo=UTC)
    if status.reason is not Reason.BACKING_OFF:
        return start
    delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** max(0, status.restarts.counted - 1))
    digest = hashlib.sha256(f"{uid}/{status.restarts.total}".encode()).digest()
    spread = 1 - JITTER + 2 * JITTER * digest[0] / 255
    return start + timedelta(seconds=round(delay * spread))


def _restart(scene: Scene, verdict: Verdict) -> Step:
    counts = verdict.action is Action.RETRY
    pauses = counts or (verdict.action is Action.RESTART and _was_short(scene))
    before = scene.status.restarts
    saves_memory = verdict.action is Action.SAVE_MEMORY
    restarts = Restarts(
        total=before.total + 1,
        counted=before.counted + counts,
        prepare=before.prepare + (scene.stage is Stage.PREPARE),
        export=before.export + (scene.stage is Stage.EXPORT),
        out_of_memory=before.out_of_memory + saves_memory,
    )
    reason = Reason.BACKING_OFF if pauses else verdict.reason
    changed = {"phase_time": scene.now, "reason": reason, "restarts": restarts}
    ready = ready_time(scene.status.model_copy(update=changed), uid=scene.observed.job.uid)
    when = f"starts at {ready:%H:%M:%S} UTC" if pauses else "starts at once"
    counted = f"retry {restarts.counted} of {scene.spec.backoff_limit} {when}"
    next_one = "the next one, with a plan that needs less memory," if saves_memory else "the next one"
    free = f"{next_one} {when}; the restart does not count"
    return Step(
        phase=Phase.RESTARTING,
        reason=reason,
        cause=verdict.reason,
        message=f"{scene.label}: {verdict.reason.value}: {verdict.message}; {counted if counts else free}",
        changes={"restarts": restarts, "progress": halted(scene.status.progress)},
        deletes=unfinished(scene.observed),
        requeue_after=(ready - scene.now).total_seconds(),
    )


def _was_short(scene: Scene) -> bool:
    """Whether what was disrupted had hardly begun."""
    began = scene.status.phase_time
    return began is None or (scene.now - began).total_seconds() < SHORT_SECONDS
