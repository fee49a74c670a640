"""One pass over one job: which policy speaks."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.model import ChildJob, Observed, Plan
from finetune_operator.reconcile import deadline, export, hang, prepare, training, ttl
from finetune_operator.reconcile.ending import Action, Verdict
from finetune_operator.reconcile.facts import with_facts
from finetune_operator.reconcile.failure import fail, unfinished
from finetune_operator.reconcile.launch import REASONS, wait_for
from finetune_operator.reconcile.node_loss import lost_pods, seconds_until_lost
from finetune_operator.reconcile.retry import resume, settle
from finetune_operator.reconcile.run_identity import identify
from finetune_operator.reconcile.scene import Outcome, Scene, Step, overdue_at
from finetune_operator.reconcile.status import close
from finetune_operator.reconcile.suspend import go_on, suspend
from finetune_operator.reconcile.validate import SpecError, parse_spec
from finetune_operator.reconcile.verdict import judge
from finetune_operator.reconcile.waiting import await_pods


class Policy(NamedTuple):
    """What a stage leads to."""

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
    plan = _conclude(observed, now) if job.status.phase.is_terminal else _live(observed, now)
    return replace(
        plan,
        deletes=(*plan.deletes, *lost_pods(observed, now)),
        requeue_after=_sooner(plan.requeue_after, seconds_until_lost(observed, now)),
    )


def _conclude(observed: Observed, now: datetime) -> Plan:
    """A job that has ended: nothing of it runs on, and it goes when its time is over."""
    status, left = observed.job.status, ttl.seconds_to_live(observed, now)
    if left == 0:
        return Plan(status=status, deletes=(ttl.expire(observed),))
    return Plan(status=status, deletes=unfinished(observed), requeue_after=left)


def _live(observed: Observed, now: datetime) -> Plan:
    """A job that has not ended; one that ends with this pass is looked at again when its time to live is over."""
    plan = _go_on(observed, now)
    ended = replace(observed, job=replace(observed.job, status=plan.status))
    return replace(plan, requeue_after=_sooner(plan.requeue_after, ttl.seconds_to_live(ended, now)))


def _go_on(observed: Observed, now: datetime) -> Plan:
    job = observed.job
    try:
        spec = parse_spec(job.spec, allow_privileged=observed.settings.allow_privileged)
    except SpecError as error:
        step = fail(observed, job.status, reason=Reason.INVALID_SPEC, message=str(error))
        return close(observed, job.status, step=step, now=now)
    status = with_facts(observed).model_copy(update={"nodes": spec.distributed.num_nodes})
    scene = Scene(observed=observed, spec=spec, status=status, now=now)
    named = identify(scene)
    scene = replace(scene, status=status.model_copy(update=named)) if named else scene
    left = deadline.seconds_left(scene)
    step = deadline.exceed(scene) if left is not None and left <= 0 else _decide(scene)
    plan = close(observed, scene.status, step=step, now=now, spec=spec)
    return plan if step.phase.is_terminal else replace(plan, requeue_after=_sooner(plan.requeue_after, left))


def _decide(scene: Scene) -> Step:
    if scene.spec.suspend:
        return _hold(scene)
    if scene.status.phase is Phase.SUSPENDED:
        return go_on(scene)
    return _work(scene)


def _hold(scene: Scene) -> Step:
    """Suspend the job; what ended just then is settled first, and a stage that ended well is not done again."""
    if scene.status.phase in (Phase.SUSPENDED, Phase.RESTARTING) or scene.outcome is None:
        return suspend(scene, scene.stage)
    step = _finish(scene, scene.outcome)
    begun = step.changes.get("stage")
    return suspend(scene, Stage(begun)) if begun else step


def _work(scene: Scene) -> Step:
    if scene.status.phase is Phase.RESTARTING:
        return resume(scene)
    if scene.outcome:
        return _finish(scene, scene.outcome)
    if scene.status.phase is Phase.RUNNING:
        return _run(scene)
    if any(pod.phase == "Failed" for pod in scene.pods):
        return _stay(scene)  # Kubernetes ends the Job in a moment and says so
    return await_pods(scene) or POLICIES[scene.stage].proceed(scene)


def _run(scene: Scene) -> Step:
    """Look after an attempt whose pods all run or ran."""
    trouble = _trouble(scene, scene.job)
    if trouble:
        return settle(scene, trouble)
    if any(pod.phase == "Failed" for pod in scene.pods):
        return _stay(scene)
    silent = hang.silent_until(scene)
    if silent and scene.now >= silent:
        return settle(scene, hang.hung(scene))
    moments = [silent, *(overdue_at(pod) for pod in scene.pods if not pod.is_terminal)]
    waits = [scene.seconds_until(moment) for moment in moments if moment]
    step = training.proceed(scene)
    return replace(step, requeue_after=_sooner(step.requeue_after, *waits))


def _trouble(scene: Scene, job: ChildJob | None) -> Verdict | None:
    """Return what ends a running attempt although Kubernetes does not say that its Job failed."""
    if job is None or job.deletion_timestamp:
        return Verdict(Action.RESTART, Reason.DISRUPTED, f"somebody deleted Job {scene.child_name}")
    if job.suspended:
        return Verdict(Action.RESTART, Reason.PREEMPTED, f"the queue took the place of Job {job.name} back")
    for pod in scene.pods:
        moment = overdue_at(pod)
        if moment and moment <= scene.now and not pod.is_terminal:
            text = f"node {pod.node} does not end pod {pod.name}: {pod.disruption or 'it was deleted'}"
            return Verdict(Action.RESTART, Reason.DISRUPTED, text)
    return None


def _finish(scene: Scene, outcome: Outcome) -> Step:
    """Decide on a stage that is over once its pods have ended: until then the most telling end may be to come."""
    late = [pod for pod in scene.pods if not pod.is_terminal]
    moments = [moment for pod in late if (moment := overdue_at(pod))]
    left = max((scene.seconds_until(moment) for moment in moments), default=0.0)
    if len(moments) < len(late) or left > 0:
        return _stay(scene, wait_for(scene) if outcome.failure else None, requeue_after=left if left > 0 else None)
    if outcome.failure:
        return settle(scene, judge(scene, outcome.failure))
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


def _sooner(*delays: float | None) -> float | None:
    """Return the shortest of the delays that there are."""
    return min((delay for delay in delays if delay is not None), default=None)
