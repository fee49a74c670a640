"""The NetworkPolicy of a job: its pods reach one another, S3, the operator and DNS, and nobody reaches them.

A tracking server is reached too, where the job names one. The address of such a server, as that of S3, is not known
here and may change, so its port is open to any address. Policies see the port of a pod, which a Service hides; so
where the host name may be that of a Service, its namespace is open on every port. Ranks meet on ports that the system
chooses (NCCL, gloo), so among the job's own pods every port is open.

The name follows from the content: a job whose storage was changed while it was suspended gets another policy, and
policies add up.
"""

import hashlib
import ipaddress
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

from finetune_api.spec import S3Storage, Tracking
from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.names import JOB_LABEL, job_labels, network_policy_name, owner_reference
from finetune_operator.model import PodSettings

OPERATOR_LABELS = {"app.kubernetes.io/name": "finetune-operator", "app.kubernetes.io/component": "operator"}
"""Labels of the operator's pods, which the chart sets."""
DNS_PORTS = (53, 5353)
"""Where names are asked for; OpenShift's DNS pods listen on 5353."""
IDENTITY_ADDRESSES = ("169.254.169.254/32", "169.254.170.23/32", "fd00:ec2::254/128", "fd00:ec2::23/128")
"""Where a cloud hands a pod the keys of its service account: instance metadata, and EKS Pod Identity
(https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html).
"""
HTTP, HTTPS = 80, 443
ANYWHERE_ELSE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::/32"]}},
    {"namespaceSelector": {}},
]
"""Any address but those of instance metadata, which answers on the port of plain HTTP."""


def build_network_policy(blueprint: Blueprint) -> dict[str, Any]:
    """Return the policy; it stands from the first pod of the job to the last."""
    job, settings = blueprint.job, blueprint.settings
    own = {"podSelector": {"matchLabels": {JOB_LABEL: job.name}}}
    spec = {
        **own,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [own]}],
        "egress": [
            {"to": [own]},
            {"ports": [_port(number, protocol) for number in DNS_PORTS for protocol in ("UDP", "TCP")]},
            _to_operator(settings),
            *_to_storage(blueprint.spec.storage.s3, job.namespace),
            *_to_tracking(blueprint.spec.tracking, job.namespace),
            *({"ports": [_port(number)]} for number in settings.network_ports),
        ],
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": network_policy_name(job.name, digest),
            "namespace": job.namespace,
            "labels": job_labels(job.name),
            "ownerReferences": [owner_reference(job)],
        },
        "spec": spec,
    }


def _to_operator(settings: PodSettings) -> dict[str, Any]:
    port = urlsplit(settings.progress_url).port or HTTPS
    operator = {**_namespace(settings.operator_namespace), "podSelector": {"matchLabels": OPERATOR_LABELS}}
    return {"to": [operator], "ports": [_port(port)]}


def _to_storage(s3: S3Storage, namespace: str) -> list[dict[str, Any]]:
    """Return the ways to S3, and without a Secret also those to the keys of the pod's own identity."""
    ways = _to_server(s3.endpoint, namespace)
    if s3.credentials_secret_ref:
        return ways
    addresses = [{"ipBlock": {"cidr": address}} for address in IDENTITY_ADDRESSES]
    return [*ways, {"ports": [_port(HTTPS)]}, {"to": addresses, "ports": [_port(HTTP)]}]


def _to_tracking(tracking: Tracking, namespace: str) -> list[dict[str, Any]]:
    return _to_server(tracking.mlflow.uri, namespace) if tracking.mlflow else []


def _to_server(uri: str, namespace: str) -> list[dict[str, Any]]:
    """Return the ways to a server outside of the job."""
    endpoint = urlsplit(uri)
    port = _port_of(endpoint)
    ways: list[dict[str, Any]] = [{"ports": [_port(port)], **({"to": ANYWHERE_ELSE} if port == HTTP else {})}]
    if home := _namespace_of(endpoint.hostname or "", namespace):
        ways.append({"to": [_namespace(home)]})
    return ways


def _port_of(endpoint: SplitResult) -> int:
    """Return the port of an endpoint; one that cannot be read is told by the prepare stage, which uses it."""
    try:
        port = endpoint.port
    except ValueError:
        port = None
    return port or (HTTP if endpoint.scheme == "http" else HTTPS)


def _namespace_of(host: str, own: str) -> str | None:
    """Return the namespace of what may be a Service's host name (`s3`, `s3.ml`, `s3.ml.svc...`), None else."""
    name, *rest = host.split(".")
    if not name or _is_address(host):
        return None
    if not rest:
        return own
    return rest[0] if rest[1:2] in ([], ["svc"]) else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _port(number: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": number, "protocol": protocol}
