"""Faults through the API: what people, quotas, autoscalers and other controllers do to a job."""

import contextlib
from collections.abc import Callable

from finetune_api.reasons import Phase, Reason
from finetune_chaos.fault import ANY, POD_SECONDS, WORKING, Fault, MissedError, Target, Undo, nothing
from finetune_chaos.kube import KubeError
from finetune_chaos.node_faults import LOST_NODE
from finetune_chaos.workload import NAMESPACE, OPERATOR_SELECTOR, SCRATCH_MIB, STEPS
from quickstart.platform import NAMESPACE as OPERATOR_NAMESPACE
from quickstart.steps import StepError, kubectl

FILL = (
    "import os\n"
    "with open('/var/lib/finetune/filler', 'wb') as filler:\n"
    f"    for _ in range({2 * SCRATCH_MIB}):\n"
    "        filler.write(os.urandom(1 << 20))\n"
)


def kill_operator(target: Target) -> Undo:
    """Delete every pod of the operator without grace."""
    for pod in target.kube.items("pods", selector=OPERATOR_SELECTOR, namespace=OPERATOR_NAMESPACE):
        target.kube.delete("pods", pod["metadata"]["name"], grace=0, namespace=OPERATOR_NAMESPACE)
    return nothing


def refuse_s3(target: Target) -> Undo:
    """Take the S3 server from its Service, so that connections are refused until the undoing."""
    target.kube.patch("services", "s3", {"spec": {"selector": {"app": "nobody"}}})
    return lambda: target.kube.patch("services", "s3", {"spec": {"selector": {"app": "s3"}}})


def fill_scratch(target: Target) -> Undo:
    """Write more into a pod's scratch space than it may hold; the kubelet evicts it."""
    pod = target.pod()
    # The pod may be evicted while it is being filled.
    with contextlib.suppress(StepError):
        kubectl("exec", "-n", NAMESPACE, pod.name, "--", "python", "-c", FILL)
    return nothing


def evict_pod(target: Target) -> Undo:
    """Evict one pod of the job through the eviction API."""
    return _strike_pod(target, lambda name: _evict(target, name, NAMESPACE))


def delete_pod(target: Target) -> Undo:
    """Delete one pod of the job by hand."""
    return _strike_pod(target, lambda name: target.kube.delete("pods", name))


def _strike_pod(target: Target, strike: Callable[[str], object]) -> Undo:
    """Strike a pod that runs. Raises MissedError when it does its work all the same: nothing is lost."""
    pod = target.pod()
    strike(pod.name)
    if target.life.ends_well(pod, POD_SECONDS):
        raise MissedError(f"pod {pod.name} had just done its work")
    return nothing


def drain_node(target: Target) -> Undo:
    """Cordon a node and evict every pod of it, the operator's and the cluster's DNS among them."""
    target.kube.patch("nodes", LOST_NODE, {"spec": {"unschedulable": True}})
    for namespace in (NAMESPACE, OPERATOR_NAMESPACE, "kube-system"):
        for pod in target.kube.items("pods", namespace=namespace):
            owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences", [])}
            if pod["spec"].get("nodeName") == LOST_NODE and not owners & {"DaemonSet", "Node"}:
                _evict(target, pod["metadata"]["name"], namespace)
    return lambda: target.kube.patch("nodes", LOST_NODE, {"spec": {"unschedulable": None}})


def _evict(target: Target, name: str, namespace: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    path = target.kube.path("pods", f"{name}/eviction", namespace=namespace)
    try:
        target.kube.request("POST", path, body=body)
    except KubeError as error:
        if error.code != 404:
            raise


def delete_child(kind: str) -> Callable[[Target], Undo]:
    """Return the fault that deletes a child of the job by hand."""

    def strike(target: Target) -> Undo:
        names = [item["metadata"]["name"] for item in target.kube.items(kind, selector=target.life.selector)]
        if not names:
            raise MissedError(f"the job has no {kind}")
        target.kube.delete(kind, target.random.choice(names))
        return nothing

    return strike


def delete_job(target: Target) -> Undo:
    """Delete the FineTuneJob."""
    target.life.delete()
    return nothing


def suspend_job(target: Target) -> Undo:
    """Suspend the job; it is let go on at the undoing."""
    _set_suspend(target, value=True)

    def go_on() -> None:
        target.life.resumes += 1
        _set_suspend(target, value=False)

    return go_on


def _set_suspend(target: Target, *, value: bool) -> None:
    target.kube.patch("finetunejobs", target.life.name, {"spec": {"suspend": value}})


TRAINING = (Phase.STARTING, Phase.RUNNING)
KUBE_FAULTS = (
    Fault("operator-killed", kill_operator, ANY, restarts=(0, 0), weight=2),
    Fault("s3-refused", refuse_s3, WORKING, hold=(5, 40), restarts=(0, 1), counted=1, seconds=300),
    Fault(
        "scratch-filled", fill_scratch, (Phase.RUNNING,), restarts=(0, 0), ends=Reason.SCRATCH_FULL, steps=6 * STEPS
    ),
    Fault("pod-evicted", evict_pod, WORKING, restarts=(1, 1), weight=2),
    Fault("node-drained", drain_node, WORKING, hold=(5, 20), seconds=300),
    Fault("job-deleted", delete_child("jobs"), TRAINING, restarts=(1, 1)),
    Fault("pod-deleted", delete_pod, WORKING, restarts=(1, 1)),
    Fault("policy-deleted", delete_child("networkpolicies"), WORKING, restarts=(0, 0)),
    Fault("finetunejob-deleted", delete_job, ANY, restarts=(0, 0), ends=None, seconds=180, weight=len(ANY)),
    Fault("suspended", suspend_job, ANY, hold=(2, 20), restarts=(0, 0), weight=len(ANY)),
)
