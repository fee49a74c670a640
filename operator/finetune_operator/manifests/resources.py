"""Requests and limits of the pods, and what follows from them."""

from collections.abc import Mapping
from typing import Any

from finetune_api.pods import Resources
from finetune_api.quantity import parse_quantity
from finetune_api.spec import FineTuneJobSpec

GPU = "nvidia.com/gpu"
GIBI = 2**30


def memory_bytes(limits: Mapping[str, str | int]) -> int | None:
    """Return the memory limit in bytes, or None when there is none."""
    return int(parse_quantity(limits["memory"])) if "memory" in limits else None


def train_resources(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Return the resources of a training pod; a GPU job without a GPU limit gets one GPU per process."""
    wanted = spec.pod_template.resources
    limits = dict(wanted.limits)
    if spec.distributed.device == "gpu" and not any(_is_gpu(name) for name in limits):
        limits[GPU] = spec.distributed.processes_per_node
    return _resources(dict(wanted.requests), limits)


def gpus_per_pod(spec: FineTuneJobSpec) -> dict[str, int]:
    """Return the GPUs of a training pod by the name of their resource."""
    limits = train_resources(spec).get("limits", {})
    counts = {name: int(parse_quantity(amount)) for name, amount in limits.items() if _is_gpu(name)}
    return {name: count for name, count in counts.items() if count > 0}


def stage_resources(spec: FineTuneJobSpec, defaults: Resources) -> dict[str, Any]:
    """Return the resources of a prepare or export pod: the job's own, the defaults for what it does not name.

    A resource that the job names at all takes nothing from the defaults: a default request above the job's own
    limit would make a pod that Kubernetes refuses.
    """
    wanted = spec.pod_template.stage_resources
    named = wanted.requests.keys() | wanted.limits.keys()
    requests = {name: amount for name, amount in defaults.requests.items() if name not in named}
    limits = {name: amount for name, amount in defaults.limits.items() if name not in named}
    return _resources({**requests, **wanted.requests}, {**limits, **wanted.limits})


def cpu_threads(resources: Mapping[str, Any], processes: int) -> int | None:
    """Return the threads each process may use, or None when the pod names no cpu."""
    cpu = resources.get("limits", {}).get("cpu") or resources.get("requests", {}).get("cpu")
    return max(1, int(parse_quantity(cpu) / processes)) if cpu is not None else None


def shared_memory(resources: Mapping[str, Any], processes: int) -> str:
    """Return the size of /dev/shm: 1 GiB per process, at most half the memory limit, which it counts against."""
    size = processes * GIBI
    limit = memory_bytes(resources.get("limits", {}))
    return str(min(size, limit // 2) if limit else size)


def _is_gpu(name: str) -> bool:
    return name.endswith("/gpu") or "/mig-" in name


def _resources(requests: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
