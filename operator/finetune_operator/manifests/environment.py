"""Environment of a stage's container: what the operator tells it, and the user's own variables.

Merged by name: the user's variables win over defaults such as OMP_NUM_THREADS, and never over what the operator sets.
"""

import json
from typing import Any

from finetune_api.environment import Variable
from finetune_api.stage import (
    JOB_VARIABLE,
    POD_IP_VARIABLE,
    POD_UID_VARIABLE,
    PROGRESS_CA_VARIABLE,
    PROGRESS_URL_VARIABLE,
)
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.resources import cpu_threads


def build_environment(blueprint: Blueprint, resources: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the container's variables."""
    merged = [
        *(_named(name, value) for name, value in _defaults(blueprint, resources).items()),
        *(_variable(one) for one in blueprint.spec.pod_template.env),
        *(_named(name, value) for name, value in _settings(blueprint).items()),
        *(_field(name, path) for name, path in _identity(blueprint).items()),
    ]
    return list({one["name"]: one for one in merged}.values())


def encode_input(blueprint: Blueprint) -> str:
    """Return the StageInput as JSON that survives Kubernetes.

    The kubelet replaces `$(NAME)` and `$$` in the values of variables. `$` occurs in JSON only within strings,
    where its escape means the same.
    """
    text = json.dumps(blueprint.stage_input().to_wire(), separators=(",", ":"), ensure_ascii=False)
    return text.replace("$", "\\u0024")


def _settings(blueprint: Blueprint) -> dict[str, str]:
    job = blueprint.job
    variables = {JOB_VARIABLE: encode_input(blueprint), "HOME": "/tmp", "PYTHONSAFEPATH": "1"}  # noqa: S108
    if blueprint.is_training:
        base = blueprint.settings.progress_url.rstrip("/")
        variables[PROGRESS_URL_VARIABLE] = f"{base}/v1/namespaces/{job.namespace}/jobs/{job.name}/progress"
        variables[PROGRESS_CA_VARIABLE] = blueprint.settings.progress_ca
    return variables if blueprint.uses_gpu else {**variables, "DS_ACCELERATOR": "cpu"}


def _identity(blueprint: Blueprint) -> dict[str, str]:
    """Return what a pod is told of itself, by field; its address, where other pods of the run are to find it."""
    fields = {POD_UID_VARIABLE: "metadata.uid"}
    return {**fields, POD_IP_VARIABLE: "status.podIP"} if blueprint.num_pods > 1 else fields


def _defaults(blueprint: Blueprint, resources: dict[str, Any]) -> dict[str, str]:
    threads = None if blueprint.uses_gpu else cpu_threads(resources, blueprint.processes)
    return {"OMP_NUM_THREADS": str(threads)} if threads else {}


def _variable(one: Variable) -> dict[str, Any]:
    """Return a user's variable as a container has it; a Secret never gets into an environment."""
    if one.value_from is None:
        return _named(one.name, one.value)
    source = one.value_from.model_copy(update={"secret_key_ref": None})
    return {"name": one.name, "valueFrom": source.to_wire()}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _named(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}
