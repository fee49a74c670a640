"""The S3 server in the cluster: deploy it, give it credentials, reach it from this machine."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from quickstart.steps import ROOT, StepError, kubectl

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST = ROOT / "dev" / "quickstart" / "s3.yaml"
PORT = 8333


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str

    @property
    def profile(self) -> str:
        """The credentials as an AWS shared credentials file."""
        return f"[default]\naws_access_key_id={self.access_key}\naws_secret_access_key={self.secret_key}\n"

    @property
    def identities(self) -> str:
        """The credentials as SeaweedFS wants them."""
        key = {"accessKey": self.access_key, "secretKey": self.secret_key}
        return json.dumps({"identities": [{"name": "finetune", "credentials": [key], "actions": ["Admin"]}]})


def make_namespace(name: str) -> None:
    """Create a namespace anew, with Pod Security `restricted` enforced."""
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=300s")
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")


def apply_secret(*, namespace: str, name: str, values: dict[str, str]) -> None:
    """Write a Secret; its values never appear on a command line."""
    metadata = {"name": name, "namespace": namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
    kubectl("apply", "-f", "-", text=json.dumps(secret))


def deploy_s3(namespace: str) -> Credentials:
    """Start the S3 server with fresh credentials (jobs name them as Secret `s3`) and wait until it serves."""
    credentials = Credentials(secrets.token_hex(10), secrets.token_hex(20))
    apply_secret(namespace=namespace, name="s3", values={"credentials": credentials.profile})
    apply_secret(namespace=namespace, name="s3-identities", values={"s3.json": credentials.identities})
    kubectl("apply", "-n", namespace, "-f", str(MANIFEST))
    kubectl("rollout", "status", "-n", namespace, "deployment/s3", "--timeout=300s")
    return credentials


@contextmanager
def s3_client(namespace: str, credentials: Credentials) -> "Iterator[S3Client]":
    """Yield a client that reaches the server through a port of this machine's loopback."""
    command = ["kubectl", "port-forward", "-n", namespace, "service/s3", f":{PORT}", "--address=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            line = forward.stdout.readline() if forward.stdout else ""
            if "127.0.0.1:" not in line:
                raise StepError(f"kubectl port-forward to the S3 server failed: {line.strip()}")
            port = int(line.split("127.0.0.1:")[1].split(" ")[0])
            yield connect(f"http://127.0.0.1:{port}", credentials)
        finally:
            forward.kill()


def connect(endpoint: str, credentials: Credentials) -> "S3Client":
    """Return a client of a server at `endpoint`."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 8}),
    )


def upload_folder(client: "S3Client", *, folder: Path, bucket: str, prefix: str) -> int:
    """Upload every file of a folder below a prefix and return the bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
    return sum(path.stat().st_size for path in files)
