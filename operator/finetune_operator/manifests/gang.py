"""Gang scheduling: the pods of an attempt start together or not at all, where the scheduler can do that.

Volcano and the coscheduling plug-in each read a PodGroup, which the pods name in an annotation or a label. It is
written when the job names a scheduler of its own and that API is in the cluster. It belongs to the attempt: a group
that has run to its end is not used again. A user who names a group of his own keeps it.
"""

from decimal import Decimal
from typing import Any

from finetune_api.quantity import parse_quantity
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import owner_reference
from finetune_operator.manifests.resources import train_resources

VOLCANO = "scheduling.volcano.sh/v1beta1"
VOLCANO_SCHEDULER = "volcano"
VOLCANO_ANNOTATION = "scheduling.k8s.io/group-name"
VOLCANO_QUEUE_ANNOTATION = "scheduling.volcano.sh/queue-name"
COSCHEDULING = "scheduling.x-k8s.io/v1alpha1"
COSCHEDULING_LABEL = "scheduling.x-k8s.io/pod-group"
DEFAULT_SCHEDULERS = ("", "default-scheduler")


def gang_api(blueprint: Blueprint) -> str | None:
    """Return the API version of the PodGroup that the pods need, or None when they need none."""
    template = blueprint.spec.pod_template
    if blueprint.num_pods == 1 or template.scheduler_name in DEFAULT_SCHEDULERS:
        return None
    if VOLCANO_ANNOTATION in template.annotations or COSCHEDULING_LABEL in template.labels:
        return None
    wanted = VOLCANO if template.scheduler_name == VOLCANO_SCHEDULER else COSCHEDULING
    return wanted if wanted in blueprint.settings.api_versions else None


def gang_annotations(blueprint: Blueprint) -> dict[str, str]:
    """Return the annotations by which the pods name their group."""
    return {VOLCANO_ANNOTATION: blueprint.name} if gang_api(blueprint) == VOLCANO else {}


def gang_labels(blueprint: Blueprint) -> dict[str, str]:
    """Return the labels by which the pods name their group."""
    return {COSCHEDULING_LABEL: blueprint.name} if gang_api(blueprint) == COSCHEDULING else {}


def build_pod_groups(blueprint: Blueprint) -> tuple[dict[str, Any], ...]:
    """Return the PodGroup of an attempt, if it needs one."""
    api_version = gang_api(blueprint)
    if api_version is None:
        return ()
    group = {
        "apiVersion": api_version,
        "kind": "PodGroup",
        "metadata": {
            "name": blueprint.name,
            "namespace": blueprint.job.namespace,
            "labels": blueprint.labels,
            "ownerReferences": [owner_reference(blueprint.job)],
        },
        "spec": {
            "minMember": blueprint.num_pods,
            "minResources": _total_requests(blueprint),
            **(_volcano_fields(blueprint) if api_version == VOLCANO else {}),
        },
    }
    return (group,)


def _volcano_fields(blueprint: Blueprint) -> dict[str, str]:
    template = blueprint.spec.pod_template
    fields = {
        "queue": template.annotations.get(VOLCANO_QUEUE_ANNOTATION, ""),
        "priorityClassName": template.priority_class_name,
    }
    return {name: value for name, value in fields.items() if value}


def _total_requests(blueprint: Blueprint) -> dict[str, str]:
    """Return what all pods request together; a resource with a limit alone requests that limit."""
    resources = train_resources(blueprint.spec)
    one_pod = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: _text(parse_quantity(amount) * blueprint.num_pods) for name, amount in sorted(one_pod.items())}


def _text(number: Decimal) -> str:
    """Return a number as a quantity: whole, or in thousandths."""
    return str(int(number)) if number == int(number) else f"{int(number * 1000)}m"
