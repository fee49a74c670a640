"""Everything a stage needs, in the order in which it is created."""

from typing import Any

from finetune_api.stage import Stage
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.gang import build_pod_groups
from finetune_operator.manifests.jobs import build_train_job
from finetune_operator.manifests.network_policy import build_network_policy
from finetune_operator.manifests.stage_pod import build_stage_pod


def build_children(blueprint: Blueprint) -> tuple[dict[str, Any], ...]:
    """Return the stage's child, which is last, after what it needs."""
    policies = build_policies(blueprint) if _may_lack_policy(blueprint) else ()
    if not blueprint.is_training:
        return (*policies, build_stage_pod(blueprint))
    return (*policies, *build_pod_groups(blueprint), build_train_job(blueprint))


def build_policies(blueprint: Blueprint) -> tuple[dict[str, Any], ...]:
    """Return the job's NetworkPolicy, or nothing where jobs have none."""
    return (build_network_policy(blueprint),) if blueprint.settings.network_policies else ()


def _may_lack_policy(blueprint: Blueprint) -> bool:
    """Whether the job's policy may be missing: at its beginning, or after a restart, when somebody removed it."""
    return blueprint.stage is Stage.PREPARE or blueprint.attempt > 1


def build_probe(blueprint: Blueprint) -> dict[str, Any]:
    """Return a pod like those of the child, to ask the API server whether it would be taken."""
    return build_stage_pod(blueprint)
