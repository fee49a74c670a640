"""The operator as a process of its own beside a loopback API server, under the rights that the chart gives it."""

import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_loopback.certificates import write_certificate
from finetune_loopback.kube_api import REPOSITORY, binaries
from finetune_loopback.kube_client import APPLY, KubeApi
from finetune_loopback.processes import await_ready, free_ports, server

ACCOUNT = "finetune-operator"
START_SECONDS = 60
PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}


@dataclass(frozen=True)
class OperatorProcess:
    """A running operator."""

    process: "subprocess.Popen[bytes]"
    log: Path
    probe_port: int
    progress_port: int
    tls: Path

    def is_ready(self) -> bool:
        """Return whether /readyz says so."""
        return self.probe("/readyz") == 200

    def leads(self) -> bool:
        """Return whether /readyz says so; a replica that stands by is ready and says that it does."""
        return self._get("/readyz") == (200, "ok\n")

    def probe(self, path: str) -> int:
        """Return the HTTP status of a probe; 0 when nobody answers."""
        return self._get(path)[0]

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}{path}", timeout=5) as reply:
                return int(reply.status), reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all series of a metric that bear these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(part in line for part in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def writes(self) -> float:
        """Return how many writes this process has sent, those to its Lease left out."""
        verbs = ("apply", "create", "update", "delete")
        total = sum(self.metric("finetune_operator_api_calls_total", verb=verb) for verb in verbs)
        return (
            total
            - self.metric("finetune_operator_api_calls_total", verb="create", kind="Lease")
            - self.metric("finetune_operator_api_calls_total", verb="update", kind="Lease")
        )

    def post_progress(self, namespace: str, name: str, *, token: str, body: Any) -> int:
        """Post a progress sample over TLS, its certificate checked; return the HTTP status."""
        url = f"https://127.0.0.1:{self.progress_port}/v1/namespaces/{namespace}/jobs/{name}/progress"
        data = json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=data, method="POST", headers=headers)
        context = ssl.create_default_context(cafile=str(self.tls / "ca.crt"))
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as reply:  # noqa: S310 - https
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code and how many seconds the end took."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(timeout=30)
        return code, time.monotonic() - began

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait()

    def log_text(self) -> str:
        """Return the log so far."""
        return self.log.read_text()


def grant_chart_rights(api: KubeApi, *, namespace: str, watch: tuple[str, ...], source: Path = REPOSITORY) -> None:
    """Give the operator's service account in `namespace` the rights of the chart in the checkout `source`.

    An empty `watch` means everywhere.
    """
    chart, values = source / "charts/finetune-operator", ["image.repository=o", "trainer.image.repository=t"]
    values += [f"watchNamespaces={{{','.join(watch)}}}"] if watch else []
    command = [binaries("helm") / "helm", "template", ACCOUNT, chart, "-n", namespace, "-s", "templates/rbac.yaml"]
    command += ["--kube-version", "1.34.0"]
    for value in values:
        command += ["--set", value]
    text = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    for manifest in yaml.safe_load_all(text):
        if manifest:
            _apply(api, manifest)


def _apply(api: KubeApi, manifest: dict[str, Any]) -> None:
    meta = manifest["metadata"]
    scope = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    path = f"/apis/{manifest['apiVersion']}{scope}/{PLURALS[manifest['kind']]}/{meta['name']}"
    api.request("PATCH", path, body=manifest, content_type=APPLY, fieldManager="test", force="true")


@contextlib.contextmanager
def running_operator(
    api: KubeApi,
    directory: Path,
    *,
    namespace: str,
    watch: tuple[str, ...],
    wait: bool = True,
    **variables: str,
) -> Iterator[OperatorProcess]:
    """Run one replica in `namespace` over the watched namespaces; wait until it is ready, or at least alive."""
    directory.mkdir(parents=True, exist_ok=True)
    probe_port, progress_port = free_ports(2)
    tls = directory / "tls"
    write_certificate(tls)
    token = api.token_for(namespace, ACCOUNT)
    environment = {
        "KUBECONFIG": str(api.kubeconfig(f"operator-{namespace}", token=token)),
        "OPERATOR_NAMESPACE": namespace,
        "WATCH_NAMESPACE": ",".join(watch),
        "TRAINER_IMAGE": "registry.example/trainer:test",
        "PROGRESS_URL": f"https://127.0.0.1:{progress_port}",
        "PROGRESS_PORT": str(progress_port),
        "PROBE_PORT": str(probe_port),
        "TLS_CERT_FILE": str(tls / "tls.crt"),
        "TLS_KEY_FILE": str(tls / "tls.key"),
        "TLS_CA_FILE": str(tls / "ca.crt"),
        "PYTHONUNBUFFERED": "1",
        **variables,
    }
    log = directory / "operator.log"
    command = ["env", *(f"{key}={value}" for key, value in environment.items()), sys.executable]
    command += ["-m", "finetune_operator"]
    with server(command, log=log, cwd=Path(os.sep)) as process:
        operator = OperatorProcess(process, log, probe_port, progress_port, tls)
        is_up = operator.is_ready if wait else lambda: operator.probe("/healthz") == 200
        await_ready(process, is_up, log=log, seconds=START_SECONDS)
        yield operator
