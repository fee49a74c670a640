"""Everything a stage needs, in the order in which it is created."""

from typing import Any

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.jobs import build_train_job
from finetune_operator.manifests.service import build_rendezvous_service
from finetune_operator.manifests.stage_pod import build_stage_pod


def build_children(blueprint: Blueprint) -> tuple[dict[str, Any], ...]:
    """Return the stage's child, which is last, after what it needs."""
    if not blueprint.is_training:
        return (build_stage_pod(blueprint),)
    service = (build_rendezvous_service(blueprint.job),) if blueprint.num_pods > 1 else ()
    return (*service, build_train_job(blueprint))


def build_probe(blueprint: Blueprint) -> dict[str, Any]:
    """Return a pod like those of the child, to ask the API server whether it would be taken."""
    return build_stage_pod(blueprint)
