"""What takes part: how it is installed and started, what its jobs look like, and which writes are its own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from bench_harness.errors import BenchError
from finetune_loopback.kube_client import KubeApi
from operator_bench.kinds import KINDS, Kind, Object

HOME = "bench-system"
"""Namespace of the contender itself."""
JOBS = "bench"
"""Namespace of the jobs that are measured."""
AFTER = "bench-after"
"""Namespace of the job that is made while the contender restarts: it tells its requests from all others."""
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class Setting:
    """Where a contender runs."""

    api: KubeApi
    directory: Path
    source: Path
    """Checkout that our operator, its chart and its CRD are taken from."""
    controller_flags: tuple[str, ...] = ()


Start = Callable[[Setting], AbstractContextManager["Popen[bytes]"]]


@dataclass(frozen=True)
class Contender:
    """One contender. `start` runs it until it is ready."""

    name: str
    kind_name: str
    body: Callable[[str], Object]
    install: Callable[[Setting], None]
    start: Start
    is_writer: Callable[[str], bool]
    is_controller_manager: bool = False
    """It is kube-controller-manager itself; for all others that runs beside it."""
    driver: Callable[[Setting], AbstractContextManager[int]] | None = field(default=None)
    """A client that takes part and is not restarted; it yields its process id."""

    @property
    def kind(self) -> Kind:
        """The kind of its jobs."""
        return KINDS[self.kind_name]


def establish(api: KubeApi, manifest: Object) -> None:
    """Create a CRD and wait until its objects can be created."""
    api.ensure(CRDS, manifest)
    name = manifest["metadata"]["name"]
    if not any(_is_established(event["object"]) for event in _events(api, name)):
        raise BenchError(f"the CRD {name} was not established within 30 s")


def grant(api: KubeApi, namespace: str, account: str, rules: list[Object]) -> None:
    """Give a service account rights in the whole cluster."""
    api.namespace(namespace)
    api.ensure(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}})
    api.ensure(f"{RBAC}/clusterroles", {"metadata": {"name": account}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": account}
    subject = {"kind": "ServiceAccount", "namespace": namespace, "name": account}
    binding = {"metadata": {"name": account}, "roleRef": role, "subjects": [subject]}
    api.ensure(f"{RBAC}/clusterrolebindings", binding)


def _events(api: KubeApi, name: str) -> Iterator[Object]:
    return api.watch(CRDS, fieldSelector=f"metadata.name={name}")


def _is_established(crd: Object) -> bool:
    conditions = crd.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
