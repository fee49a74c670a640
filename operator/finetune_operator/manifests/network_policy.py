"""The NetworkPolicy of a job: its pods reach one another, S3, the operator and DNS, and nobody reaches them.

The address of an S3 server is not known here and may change, so its port is open to any address. A server within the
cluster is told by its host name, and its whole namespace is open: policies see the port of its pods, which a Service
hides. Ranks meet on ports that the system chooses (NCCL, gloo), so among the job's own pods every port is open.
"""

from typing import Any
from urllib.parse import urlsplit

from finetune_api.spec import S3Storage
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import JOB_LABEL, job_labels, network_policy_name, owner_reference
from finetune_operator.model import PodSettings

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
DNS_PORT = 53
IDENTITY_ADDRESSES = ("169.254.169.254/32", "169.254.170.23/32")
"""Where a cloud hands a pod the keys of its service account: instance metadata, and EKS Pod Identity
(https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html).
"""
IDENTITY_PORT = 80


def build_network_policy(blueprint: Blueprint) -> dict[str, Any]:
    """Return the policy; it stands from the first pod of the job to the last."""
    job = blueprint.job
    own = {"podSelector": {"matchLabels": {JOB_LABEL: job.name}}}
    egress = [
        {"to": [own]},
        {"ports": [_port(DNS_PORT, "UDP"), _port(DNS_PORT)]},
        _to_operator(blueprint.settings),
        *_to_storage(blueprint.spec.storage.s3, job.namespace),
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": network_policy_name(job.name),
            "namespace": job.namespace,
            "labels": job_labels(job.name),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own]}],
            "egress": egress,
        },
    }


def _to_operator(settings: PodSettings) -> dict[str, Any]:
    port = urlsplit(settings.progress_url).port or 443
    return {"to": [_namespace(settings.operator_namespace)], "ports": [_port(port)]}


def _to_storage(s3: S3Storage, namespace: str) -> list[dict[str, Any]]:
    """Return the ways to S3, and without a Secret also those to the keys of the pod's own identity."""
    endpoint = urlsplit(s3.endpoint)
    storage: dict[str, Any] = {"ports": [_port(endpoint.port or (80 if endpoint.scheme == "http" else 443))]}
    if home := _namespace_of(endpoint.hostname or "", namespace):
        storage = {"to": [_namespace(home)]}
    if s3.credentials_secret_ref:
        return [storage]
    addresses = [{"ipBlock": {"cidr": address}} for address in IDENTITY_ADDRESSES]
    token_service = {"ports": [_port(443)]}
    return [storage, token_service, {"to": addresses, "ports": [_port(IDENTITY_PORT)]}]


def _namespace_of(host: str, own: str) -> str | None:
    """Return the namespace of a Service's host name (`s3`, `s3.ml.svc...`), None for any other host."""
    name, _, rest = host.partition(".")
    if not rest:
        return own if name else None
    namespace, _, suffix = rest.partition(".")
    return namespace if suffix == "svc" or suffix.startswith("svc.") else None


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}}


def _port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": number, "protocol": protocol}
