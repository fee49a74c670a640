"""The peer: Kubeflow training-operator, PyTorchJobs of a master and a worker.

Its validating webhook is installed but matches no object: the API server of this benchmark cannot reach a Service.
That spares the peer one call per create and update. Its certificate is mounted by hand where a kubelet would do it.
"""

import base64
import contextlib
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen

import yaml
from finetune_cluster.changed_source import module_source
from finetune_cluster.tools import TOOLS, TRAINING_OPERATOR_UNLIMITED

from bench_harness.errors import BenchError
from finetune_loopback.kube_api import binaries
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.probes import answers
from finetune_loopback.processes import await_ready, free_ports, server
from operator_bench.contender import Contender, Setting, establish, grant
from operator_bench.kinds import Object

HOME = "kubeflow"
PROGRAM = "training-operator"
SECRET = "training-operator-webhook-cert"  # noqa: S105 - a name
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")  # noqa: S108 - fixed in the peer's source
START_SECONDS = 120
TUNED_FLAGS = ("--controller-threads=16", "--enable-scheme=pytorchjob")


def _body(name: str) -> Object:
    container = {"name": "pytorch", "image": "registry.example/trainer:test"}
    replica = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}},
    }


def _install(setting: Setting) -> None:
    base = module_source(TOOLS[PROGRAM].folder, TRAINING_OPERATOR_UNLIMITED.module) / "manifests/base"
    for path in sorted((base / "crds").glob("kubeflow.org_*.yaml")):
        establish(setting.api, yaml.safe_load(path.read_text()))
    role = yaml.safe_load((base / "rbac/role.yaml").read_text())
    grant(setting.api, HOME, PROGRAM, role["rules"])
    setting.api.ensure(f"/api/v1/namespaces/{HOME}/secrets", {"metadata": {"name": SECRET}})
    setting.api.ensure(WEBHOOKS, _webhooks(base / "webhook/manifests.yaml"))
    shutil.rmtree(CERTIFICATES, ignore_errors=True)


def _webhooks(path: Path) -> Object:
    manifest: Object = yaml.safe_load(path.read_text())
    manifest["metadata"]["name"] = "validator.training-operator.kubeflow.org"
    for webhook in manifest["webhooks"]:
        webhook["clientConfig"]["service"].update(name=PROGRAM, namespace=HOME)
        webhook["objectSelector"] = {"matchLabels": {"finetune-bench/webhook": "reachable"}}
    return manifest


@contextlib.contextmanager
def _start(setting: Setting, *, tuned: bool) -> Iterator["Popen[bytes]"]:
    program = f"{PROGRAM}-tuned" if tuned else PROGRAM
    binary = binaries(program) / program
    metrics, probes, webhook = free_ports(3)
    token = setting.api.token_for(HOME, PROGRAM)
    variables = [f"KUBECONFIG={setting.api.kubeconfig(PROGRAM, token=token)}", f"MY_POD_NAMESPACE={HOME}"]
    command = ["env", *variables, str(binary), f"--metrics-bind-address=127.0.0.1:{metrics}"]
    command += [f"--health-probe-bind-address=127.0.0.1:{probes}", f"--webhook-server-port={webhook}"]
    log = setting.directory / "training-operator.log"
    with server([*command, *_flags(tuned)], log=log) as process:
        _mount_certificate(setting.api)
        await_ready(process, lambda: answers(f"http://127.0.0.1:{probes}/readyz"), log=log, seconds=START_SECONDS)
        yield process


def _flags(tuned: bool) -> Sequence[str]:
    return TUNED_FLAGS if tuned else ()


def _mount_certificate(api: KubeApi) -> None:
    """Write the certificate that the peer puts into its Secret to where a kubelet would mount it."""
    deadline = time.monotonic() + START_SECONDS
    while not (data := api.request("GET", f"/api/v1/namespaces/{HOME}/secrets/{SECRET}").get("data")):
        if time.monotonic() > deadline:
            raise BenchError(f"{PROGRAM} has made no certificate after {START_SECONDS} s")
        time.sleep(0.1)
    CERTIFICATES.mkdir(parents=True, exist_ok=True)
    for name in sorted(data):  # ca.* first: tls.crt is what the peer waits for
        (CERTIFICATES / name).write_bytes(base64.b64decode(data[name]))


def _peer(name: str, *, tuned: bool) -> Contender:
    return Contender(
        name=name,
        kind_name="PyTorchJob",
        body=_body,
        install=_install,
        start=functools.partial(_start, tuned=tuned),
        is_writer=lambda user: user == f"system:serviceaccount:{HOME}:{PROGRAM}",
    )


PEER_DEFAULT = _peer("peer_default", tuned=False)
PEER_TUNED = _peer("peer_tuned", tuned=True)
