"""One pass over one job: which policy speaks."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.model import ChildJob, Observed, Plan
from finetune_operator.reconcile import export, prepare, training
from finetune_operator.reconcile.ending import Action, Verdict
from finetune_operator.reconcile.facts import with_facts
from finetune_operator.reconcile.failure import fail, unfinished
from finetune_operator.reconcile.launch import REASONS, wait_for
from finetune_operator.reconcile.retry import resume, settle
from finetune_operator.reconcile.scene import Scene, Step, overdue_at
from finetune_operator.reconcile.status import close
from finetune_operator.reconcile.validate import SpecError, parse_spec
from finetune_operator.reconcile.verdict import judge
from finetune_operator.reconcile.waiting import await_pods


class Policy(NamedTuple):
    """What a stage's Job leads to."""

    proceed: Callable[[Scene], Step]
    """While its pods run."""
    complete: Callable[[Scene], Step]
    """When it has succeeded."""


POLICIES = {
    Stage.PREPARE: Policy(prepare.proceed, prepare.complete),
    Stage.TRAIN: Policy(training.proceed, training.complete),
    Stage.EXPORT: Policy(export.proceed, export.complete),
}


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Return what to do about a job. `now` must have a time zone; statuses carry whole seconds."""
    job = observed.job
    now = now.replace(microsecond=0)
    if job.deleting:
        return Plan(status=job.status)
    if job.status.phase.is_terminal:
        return Plan(status=job.status, deletes=unfinished(observed))
    try:
        spec = parse_spec(job.spec)
    except SpecError as error:
        step = fail(observed, job.status, reason=Reason.INVALID_SPEC, message=str(error))
        return close(observed, job.status, step=step, now=now)
    status = with_facts(observed).model_copy(update={"nodes": spec.distributed.num_nodes})
    scene = Scene(observed=observed, spec=spec, status=status, now=now)
    return close(observed, status, step=_decide(scene), now=now)


def _decide(scene: Scene) -> Step:
    child = scene.child
    if scene.status.phase is Phase.RESTARTING:
        return resume(scene)
    if child and child.is_finished:
        return _finish(scene, child)
    if scene.status.phase is Phase.RUNNING and (child is None or child.deletion_timestamp):
        gone = Verdict(Action.RESTART, Reason.DISRUPTED, f"somebody deleted Job {scene.child_name}")
        return settle(scene, gone)
    if child and any(pod.phase == "Failed" for pod in scene.pods):
        return _stay(scene)  # Kubernetes ends the Job in a moment and says so
    waiting = None if scene.status.phase is Phase.RUNNING else await_pods(scene)
    return waiting or POLICIES[scene.stage].proceed(scene)


def _finish(scene: Scene, child: ChildJob) -> Step:
    """Decide on a finished Job once its pods have ended: until then the most telling end may be to come."""
    late = [pod for pod in scene.pods if not pod.is_terminal]
    moments = [moment for pod in late if (moment := overdue_at(pod))]
    left = max((scene.seconds_until(moment) for moment in moments), default=0.0)
    if len(moments) < len(late) or left > 0:
        return _stay(
            scene, wait_for(tuple(late)) if child.failure else None, requeue_after=left if left > 0 else None
        )
    if child.failure:
        return settle(scene, judge(scene, child.failure))
    return POLICIES[scene.stage].complete(scene)


def _stay(scene: Scene, message: str | None = None, *, requeue_after: float | None = None) -> Step:
    """Leave phase and reason as they are, and the message unless there is another one."""
    status = scene.status
    return Step(
        phase=status.phase,
        reason=status.reason or REASONS[scene.stage],
        message=message or status.message or "",
        requeue_after=requeue_after,
    )
