"""A real kube-apiserver over a real etcd on loopback: schema, CEL, admission, RBAC, tokens, server-side apply.

What it is not: there is no controller manager, scheduler or kubelet, so Jobs make no pods, owners' deletion
collects nothing, and namespaces have no default service account. The ServiceAccount admission plug-in is off for
that reason; Pod Security admission is on. `control_plane` adds the rest and turns it on.
"""

import contextlib
import functools
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from finetune_loopback.kube_client import ApiError, KubeApi
from finetune_loopback.processes import await_ready, free_ports, server

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 90
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
AUDIT_EVERYTHING = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "nonResourceURLs": ["/*"]}, {"level": "Metadata"}],
}


@functools.cache
def binaries(*names: str) -> Path:
    """Return the folder that holds these programs of the local cluster, built first when they are stale."""
    command = [sys.executable, str(REPOSITORY / "dev/cluster"), "binaries", *names]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(
            f"`python3 dev/cluster binaries {' '.join(names)}` failed:\n{result.stdout}{result.stderr}"
        )
    return Path(result.stdout.strip().splitlines()[-1])


@contextlib.contextmanager
def running_kube_api(
    directory: Path, *, audit_reads: bool = False, service_accounts: bool = False
) -> Iterator[KubeApi]:
    """Run etcd and kube-apiserver below `directory`, ready to use in a few seconds. Raises ServerError.

    The audit log holds the writes, and the reads too if asked. With `service_accounts` every pod gets an account,
    which the controller manager has to make first.
    """
    programs = binaries("kube-apiserver", "etcd")
    client_port, peer_port, port = free_ports(3)
    token = secrets.token_urlsafe(24)
    api = KubeApi(url=f"https://127.0.0.1:{port}", admin_token=token, directory=directory)
    log = directory / "kube-apiserver.log"
    policy = AUDIT_EVERYTHING if audit_reads else AUDIT_POLICY
    (directory / "audit-policy.json").write_text(json.dumps(policy))
    (directory / "tokens.csv").write_text(api.token_table())
    with (
        server(_etcd(programs, directory, client_port=client_port, peer_port=peer_port), log=directory / "etcd.log"),
        server(
            _apiserver(programs, directory, etcd_port=client_port, port=port, service_accounts=service_accounts),
            log=log,
        ) as process,
    ):
        await_ready(process, lambda: _is_ready(api), log=log, seconds=START_SECONDS)
        yield api


def _is_ready(api: KubeApi) -> bool:
    try:
        api.request("GET", "/readyz")
        api.request("GET", "/api/v1/namespaces/default")
    except (ApiError, OSError):
        return False
    return True


def _etcd(programs: Path, directory: Path, *, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        str(programs / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        f"--quota-backend-bytes={8 * 2**30}",  # thousands of jobs pass the default of 2 GiB between two compactions
        "--log-level=warn",
    ]


def _apiserver(programs: Path, directory: Path, *, etcd_port: int, port: int, service_accounts: bool) -> list[str]:
    plugins = "--enable-admission-plugins" if service_accounts else "--disable-admission-plugins"
    key = _write_key(directory / "service-accounts.key")
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certificates'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"{plugins}=ServiceAccount",
        "--allow-privileged=true",
        f"--audit-policy-file={directory / 'audit-policy.json'}",
        f"--audit-log-path={directory / 'audit.log'}",
        "--audit-log-maxsize=100000",  # MB: one file, never rotated away under its readers
    ]


def _write_key(path: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    path.chmod(0o600)
    return path
