"""The real kube-controller-manager beside a loopback API server: Jobs make pods, owners' deletion collects.

Each controller has a service account of its own and a request limit of its own, as in most clusters.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.probes import answers
from finetune_loopback.processes import POLL_SECONDS, ServerError, await_ready, free_ports, server

PROGRAM = "kube-controller-manager"
USER = f"system:{PROGRAM}"
START_SECONDS = 60
RAISED_LIMITS = (
    "--kube-api-qps=1000",
    "--kube-api-burst=2000",
    "--concurrent-job-syncs=50",
    "--concurrent-gc-syncs=50",
    "--concurrent-service-endpoint-syncs=20",
    "--concurrent-endpoint-syncs=20",
)
"""Flags of a platform that has raised the limits. Without them a controller sends 20 requests a second."""


def make_namespace(api: KubeApi, name: str, *, seconds: float = START_SECONDS, **labels: str) -> str:
    """Make a namespace and wait for its default service account, without which no pod can be made in it.

    Returns the name. Raises ServerError when the controller manager does not make the account in time.
    """
    api.namespace(name, **labels)
    path, deadline = f"/api/v1/namespaces/{name}/serviceaccounts", time.monotonic() + seconds
    while not any(one["metadata"]["name"] == "default" for one in api.request("GET", path)["items"]):
        if time.monotonic() > deadline:
            raise ServerError(f"namespace {name} has no default service account after {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return name


@contextlib.contextmanager
def running_controller_manager(
    api: KubeApi, directory: Path, *, flags: Sequence[str] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run kube-controller-manager with its defaults and these flags. Raises ServerError when it does not come up."""
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    command: list[str | Path] = [
        binaries(PROGRAM) / PROGRAM,
        f"--kubeconfig={api.component(USER)}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certificates'}",
        *flags,
    ]
    log = directory / f"{PROGRAM}.log"
    with server(command, log=log) as process:
        url = f"https://127.0.0.1:{port}/healthz"
        await_ready(process, lambda: answers(url), log=log, seconds=START_SECONDS)
        yield process
