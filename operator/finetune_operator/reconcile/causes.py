"""Why one pod or one refused creation keeps a stage from running, in words of ours and of Kubernetes."""

from typing import NamedTuple

from finetune_api.reasons import Reason
from finetune_api.spec import S3Storage
from finetune_operator.model import ChildPod, RefusedWrite

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError"})
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
REFUSED_FOR_GOOD = frozenset({400, 422})
"""Codes of a refusal that the same object will meet again; a 403 may be a quota, which can be raised."""
FORBIDDEN = 403
QUOTA = "exceeded quota"
"""What the API server's quota admission says."""
GRAVITY = (Reason.IMAGE_PULL_FAILED, Reason.CONTAINER_CONFIG_FAILED, Reason.UNSCHEDULABLE, None)


class Wait(NamedTuple):
    """Why pods do not run yet."""

    reason: Reason | None
    """None while it is only a matter of time."""
    message: str
    is_final: bool = False
    """Whether waiting cannot mend it."""

    @property
    def gravity(self) -> tuple[bool, int]:
        """Order among the pods' waits; the least is the one to tell."""
        return not self.is_final, GRAVITY.index(self.reason)


def refusal_wait(refused: RefusedWrite) -> Wait:
    """Return what a refused creation means."""
    text = f"Kubernetes refuses to create {refused.kind} {refused.name}: {refused.message}"
    if refused.code == FORBIDDEN and QUOTA in refused.message:
        return Wait(Reason.QUOTA_EXCEEDED, f"{text}; free quota in the namespace or ask for more")
    return Wait(Reason.CREATION_REFUSED, text, is_final=refused.code in REFUSED_FOR_GOOD)


def pod_wait(pod: ChildPod, s3: S3Storage) -> Wait:
    """Return why a pending pod does not run."""
    detail = ": ".join(part for part in (f"pod {pod.name}", pod.waiting_reason, pod.waiting_message) if part)
    if pod.waiting_reason == "InvalidImageName":
        return Wait(Reason.IMAGE_PULL_FAILED, f"{detail}; correct spec.podTemplate.image", is_final=True)
    if pod.waiting_reason in IMAGE_REASONS:
        advice = "check spec.podTemplate.image and imagePullSecrets, and that the node reaches the registry"
        return Wait(Reason.IMAGE_PULL_FAILED, f"{detail}; {advice}")
    if pod.waiting_reason in CONFIG_REASONS:
        return Wait(Reason.CONTAINER_CONFIG_FAILED, detail)
    if pod.unschedulable:
        advice = "add a node, or lower the requests, selectors or affinity in spec.podTemplate"
        return Wait(Reason.UNSCHEDULABLE, f"no node takes pod {pod.name}: {pod.unschedulable}; {advice}")
    if not pod.node:
        return Wait(None, f"pod {pod.name} waits for a node")
    return Wait(None, f"pod {pod.name} is being set up on node {pod.node}{_mounts(s3)}")


def _mounts(s3: S3Storage) -> str:
    """Name what the pod mounts: that one of them is missing stands in Events of the pod alone."""
    names = []
    if s3.credentials_secret_ref:
        names.append(f"Secret {s3.credentials_secret_ref.name} with key credentials")
    if s3.ca_bundle_config_map_ref:
        names.append(f"ConfigMap {s3.ca_bundle_config_map_ref.name} with key {s3.ca_bundle_config_map_ref.key}")
    return f"; it needs {' and '.join(names)}" if names else ""
