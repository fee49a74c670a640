"""Policy: the Job of a stage, and when it may be created.

A Job is created only when no pod of any Job still lives: two live attempts would compute the same steps twice. The
number of the attempt enters the status in the same plan, and the status is written before the Job.
"""

from typing import Any

from finetune_api.reasons import Phase, Reason
from finetune_api.stage import Stage
from finetune_operator.manifests import Blueprint, build_job, build_rendezvous_service
from finetune_operator.model import ChildPod
from finetune_operator.reconcile.scene import Scene, Step

PHASES = {Stage.PREPARE: Phase.PREPARING, Stage.TRAIN: Phase.STARTING, Stage.EXPORT: Phase.EXPORTING}
REASONS = {Stage.PREPARE: Reason.PREPARING, Stage.TRAIN: Reason.STARTING, Stage.EXPORT: Reason.EXPORTING}
SETTLE_SECONDS = 30.0
"""At the beginning of a phase only causes that Kubernetes names are told: the usual steps of a pod that starts
would be a write of the status each.
"""


def launch(scene: Scene, stage: Stage, attempt: int) -> Step:
    """Enter a stage: its phase, and its Job unless pods still live."""
    blueprint = scene.blueprint(stage, attempt)
    return Step(
        phase=PHASES[stage],
        reason=REASONS[stage],
        message=wait_for(scene.live_pods) if scene.live_pods else activity(blueprint),
        changes={"attempt": attempt} if stage is Stage.TRAIN else {},
        children=children(scene, stage, attempt),
        requeue_after=SETTLE_SECONDS,
    )


def activity(blueprint: Blueprint) -> str:
    """Say what a stage's Job is for: true from its creation to its end, so that one sentence is one write."""
    match blueprint.stage:
        case Stage.PREPARE:
            return f"Job {blueprint.name} checks storage, model and data and writes the token cache"
        case Stage.TRAIN:
            return f"Job {blueprint.name} starts on {count_nodes(blueprint.num_pods)}"
        case Stage.EXPORT:
            return f"Job {blueprint.name} writes the result to {blueprint.spec.output.uri}"


def count_nodes(number: int) -> str:
    """Return a number of nodes in words."""
    return "1 node" if number == 1 else f"{number} nodes"


def children(scene: Scene, stage: Stage, attempt: int) -> tuple[dict[str, Any], ...]:
    """Return the objects of a stage that may be created now: none while a pod lives or once the Job is there."""
    blueprint = scene.blueprint(stage, attempt)
    if scene.live_pods or any(child.name == blueprint.name for child in scene.observed.jobs):
        return ()
    job = build_job(blueprint)
    return (build_rendezvous_service(scene.observed.job), job) if blueprint.num_pods > 1 else (job,)


def wait_for(pods: tuple[ChildPod, ...]) -> str:
    """Say which pods must end before the next ones start, and what to do when their node is gone."""
    names = ", ".join(f"{pod.name} on node {pod.node}" if pod.node else pod.name for pod in pods)
    return (
        f"waits for the end of {names}; if the node is lost for good, delete its Node object or remove the pod"
        " with kubectl delete pod --force"
    )
