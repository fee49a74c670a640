"""Policy: the child of a stage, and when it may be created.

It is created only when no pod of any stage still lives and no Job of an earlier attempt could make another: two live
attempts would compute the same steps twice. The number of the attempt enters the status in the same plan, and the
status is written before the child (but for a job's very first one, see `apply`). A Job with a queue's label is
created suspended, and the queue lets it go.
"""

from typing import Any

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.manifests import Blueprint, build_children
from finetune_operator.manifests.names import QUEUE_NAME_LABEL
from finetune_operator.reconcile.scene import Scene, Step

PHASES = {Stage.PREPARE: Phase.PREPARING, Stage.TRAIN: Phase.STARTING, Stage.EXPORT: Phase.EXPORTING}
REASONS = {Stage.PREPARE: Reason.PREPARING, Stage.TRAIN: Reason.STARTING, Stage.EXPORT: Reason.EXPORTING}
SETTLE_SECONDS = 30.0
"""At the beginning of a phase only causes that Kubernetes names are told: the usual steps of a pod that starts
would be a write of the status each.
"""


def launch(scene: Scene, stage: Stage, attempt: int) -> Step:
    """Enter a stage: its phase, and its child unless something still lives."""
    blueprint = scene.blueprint(stage, attempt)
    waits_in_queue = stage is Stage.TRAIN and scene.is_queued
    changes = {"stage": stage.value, **({"attempt": attempt} if stage is Stage.TRAIN else {})}
    return Step(
        phase=Phase.QUEUED if waits_in_queue else PHASES[stage],
        reason=Reason.QUEUED if waits_in_queue else REASONS[stage],
        message=wait_for(scene) if scene.is_busy else in_queue(scene) if waits_in_queue else activity(blueprint),
        changes=changes,
        children=children(scene, stage, attempt),
        requeue_after=SETTLE_SECONDS,
    )


def activity(blueprint: Blueprint) -> str:
    """Say what a stage's child is for: true from its creation to its end, so that one sentence is one write."""
    match blueprint.stage:
        case Stage.PREPARE:
            return f"pod {blueprint.name} checks storage, model and data and writes the token cache"
        case Stage.TRAIN:
            return f"Job {blueprint.name} starts on {count_nodes(blueprint.num_pods)}"
        case Stage.EXPORT:
            return f"pod {blueprint.name} writes the result to {blueprint.spec.output.uri}"


def in_queue(scene: Scene) -> str:
    """Say what a queued attempt waits for."""
    queue = scene.observed.job.labels.get(QUEUE_NAME_LABEL)
    if queue is None:
        return f"Job {scene.child_name} is suspended, and no queue is named that would let it go"
    return f"queue {queue} has not admitted the training attempt yet; see kubectl get workloads"


def count_nodes(number: int) -> str:
    """Return a number of nodes in words."""
    return "1 node" if number == 1 else f"{number} nodes"


def children(scene: Scene, stage: Stage, attempt: int) -> tuple[dict[str, Any], ...]:
    """Return the objects of a stage that may be created now: none while something lives or once it is there."""
    if scene.is_busy:
        return ()
    blueprint = scene.blueprint(stage, attempt)
    there = {job.name for job in scene.observed.jobs} | {pod.name for pod in scene.observed.pods}
    return () if blueprint.name in there else build_children(blueprint)


def wait_for(scene: Scene) -> str:
    """Say what must end before the next child starts, and what to do when its node is gone."""
    pods = scene.live_pods
    if not pods:
        return f"waits until {scene.leaving[0]} is deleted"
    names = ", ".join(f"{pod.name} on node {pod.node}" if pod.node else pod.name for pod in pods)
    return (
        f"waits for the end of {names}; if the node is lost for good, delete its Node object or remove the pod"
        " with kubectl delete pod --force"
    )
