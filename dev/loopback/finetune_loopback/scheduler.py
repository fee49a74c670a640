"""The real kube-scheduler beside a loopback API server."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.probes import answers
from finetune_loopback.processes import await_ready, free_ports, server

PROGRAM = "kube-scheduler"
USER = f"system:{PROGRAM}"
START_SECONDS = 60
DEFAULT_QPS = 50
RAISED_QPS = 1000


@contextlib.contextmanager
def running_scheduler(
    api: KubeApi, directory: Path, *, qps: int = DEFAULT_QPS
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run kube-scheduler with its default profile; `qps` is its limit of requests a second."""
    directory.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    configuration = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(api.component(USER)), "qps": qps, "burst": 2 * qps},
    }
    path = directory / "scheduler.json"
    path.write_text(json.dumps(configuration))
    command: list[str | Path] = [
        binaries(PROGRAM) / PROGRAM,
        f"--config={path}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
    ]
    command += [f"--cert-dir={directory / 'certificates'}"]
    log = directory / f"{PROGRAM}.log"
    with server(command, log=log) as process:
        url = f"https://127.0.0.1:{port}/healthz"
        await_ready(process, lambda: answers(url), log=log, seconds=START_SECONDS)
        yield process
