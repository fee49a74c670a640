"""A whole control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok's nodes.

What happens to a Job or a pod here is done by the real programs; only the containers are missing.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_loopback.controller_manager import RAISED_LIMITS, running_controller_manager
from finetune_loopback.kube_api import running_kube_api
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.kwok import make_nodes, running_kwok
from finetune_loopback.scheduler import DEFAULT_QPS, RAISED_QPS, running_scheduler


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane."""

    api: KubeApi
    controller_manager: "subprocess.Popen[bytes]"
    scheduler: "subprocess.Popen[bytes]"
    kwok: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def running_control_plane(
    directory: Path,
    *,
    nodes: int = 4,
    run_seconds: float | None = 1.0,
    raised_limits: bool = False,
    audit_reads: bool = False,
) -> Iterator[ControlPlane]:
    """Run the control plane below `directory`; bound pods run `run_seconds` and succeed, or run on if None."""
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(running_kube_api(directory, audit_reads=audit_reads, service_accounts=True))
        flags, qps = (RAISED_LIMITS, RAISED_QPS) if raised_limits else ((), DEFAULT_QPS)
        controllers = running_controller_manager(api, directory / "controller-manager", flags=flags)
        controller_manager = stack.enter_context(controllers)
        scheduler = stack.enter_context(running_scheduler(api, directory / "scheduler", qps=qps))
        kwok = stack.enter_context(running_kwok(api, directory / "kwok", run_seconds=run_seconds))
        make_nodes(api, nodes)
        yield ControlPlane(api, controller_manager, scheduler, kwok)
