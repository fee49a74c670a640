"""The boto3 client of this process.

Made after fork or spawn, one per process, by settings that were measured: explicit endpoint, region, CA and
credentials file, SigV4, eight tries per request. Transfers are driven by s3transfer's own manager, because boto3
may otherwise choose its CRT path, which ignores a custom endpoint (https://github.com/boto/boto3/issues/4839).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.credentials import CredentialResolver, SharedCredentialProvider
from botocore.session import Session as BotocoreSession

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import S3Storage
from finetune_trainer.errors import StageFailure

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONCURRENCY = 10
"""Requests in flight for one transfer."""
MAX_CONNECTIONS = 2 * CONCURRENCY
CONNECT_SECONDS = 5
_NO_PROFILE = (None, None, None, None)
"""botocore's form of a variable that is set neither in a file nor in the environment."""


@dataclass(frozen=True)
class Access:
    """How the server is reached: the spec and the mounted files."""

    s3: S3Storage
    credentials_file: Path
    ca_bundle_file: Path

    @property
    def endpoint(self) -> str:
        """The server, for people."""
        return self.s3.endpoint or f"AWS S3 ({self.s3.region})"

    @property
    def credentials(self) -> str:
        """Where the credentials come from, for people."""
        secret = self.s3.credentials_secret_ref
        if secret is None:
            return "the pods' own identity (spec.podTemplate.serviceAccountName)"
        return f'key "credentials" of Secret {secret.name}'


@dataclass(frozen=True)
class Patience:
    """How long one request may take inside the client."""

    attempts: int
    read_seconds: int


FIRST_CONTACT = Patience(attempts=2, read_seconds=15)
"""Until the server has answered once: a wrong endpoint is told in a minute."""
STEADY = Patience(attempts=8, read_seconds=60)


def build_client(access: Access, patience: Patience) -> "S3Client":
    """Return a new client that reads its credentials now. Raises StageFailure when a mounted file is missing."""
    session = boto3.Session(botocore_session=_botocore_session(access))
    return session.client(
        "s3",
        region_name=access.s3.region,
        endpoint_url=access.s3.endpoint or None,
        verify=_ca_bundle(access),
        config=_config(access.s3, patience),
    )


def _config(s3: S3Storage, patience: Patience) -> Config:
    style = s3.addressing_style
    if style == "auto":
        style = "path" if s3.endpoint else "virtual"
    return Config(
        signature_version="s3v4",
        s3={"addressing_style": style},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=patience.read_seconds,
        tcp_keepalive=True,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": patience.attempts},
    )


def _botocore_session(access: Access) -> BotocoreSession:
    session = BotocoreSession(session_vars={"profile": _NO_PROFILE} if access.s3.credentials_secret_ref else None)
    session.set_config_variable("ignore_configured_endpoint_urls", True)
    if access.s3.credentials_secret_ref is None:
        return session
    _require(access.credentials_file, f"{access.credentials} is not mounted at {access.credentials_file}")
    # Only this file counts: in boto3's default chain a key in the environment would win silently.
    provider = SharedCredentialProvider(str(access.credentials_file), "default")
    session.register_component("credential_provider", CredentialResolver([provider]))
    session.set_config_variable("config_file", "/dev/null")
    return session


def _ca_bundle(access: Access) -> str | None:
    reference = access.s3.ca_bundle_config_map_ref
    if reference is None:
        return None
    where = f"key {reference.key} of ConfigMap {reference.name}"
    _require(access.ca_bundle_file, f"the CA bundle ({where}) is not mounted at {access.ca_bundle_file}")
    return str(access.ca_bundle_file)


def _require(path: Path, problem: str) -> None:
    if not path.is_file():
        raise StageFailure(ExitCode.INVALID, Reason.STORAGE_ACCESS_DENIED, problem)
