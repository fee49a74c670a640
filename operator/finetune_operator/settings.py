"""Settings of the operator: environment variables, read once at start into one frozen record.

The chart sets every variable; docs/configuration lists them from here. A value that cannot be used ends the process
with the name of the variable and what it must be: a wrong setting must not look like a broken cluster.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api.base import Record
from finetune_api.pods import Resources
from finetune_operator.model import Prices

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
RESOURCES_EXAMPLE = '{"requests": {"cpu": "500m", "memory": "1Gi"}}'
PRICES_EXAMPLE = '{"currency": "EUR", "gpuHour": {"nvidia.com/gpu": 2.5}}'

R = TypeVar("R", bound=Record)


class SettingsError(Exception):
    """A variable is missing or cannot be used; the text names it and what it must be."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The operator's settings. The variable of each field is its name in capitals."""

    operator_namespace: str
    """Namespace of the operator itself: its Lease lives there."""
    trainer_image: str
    """Image of the stages' pods where a job names none."""
    progress_url: str
    """Base URL under which the pods reach the progress server, e.g. https://finetune-operator.ml.svc:8443."""
    watch_namespaces: tuple[str, ...] = ()
    """WATCH_NAMESPACE: comma-separated namespaces that are served; empty serves the whole cluster."""
    lease_name: str = "finetune-operator"
    """Name of the Lease that makes one replica the leader."""
    pod_name: str = field(default_factory=socket.gethostname)
    """This replica's identity in the Lease."""
    pod_ip: str = ""
    """Its address, for the standbys; empty: they are not ready and pass no progress on."""
    tls_cert_file: Path = Path("/var/run/finetune-operator/tls/tls.crt")
    """Certificate chain of the progress server (PEM); read again when it changes."""
    tls_key_file: Path = Path("/var/run/finetune-operator/tls/tls.key")
    """Its key (PEM)."""
    tls_ca_file: Path = Path("/var/run/finetune-operator/tls/ca.crt")
    """Authority that signed it (PEM); handed to the training pods."""
    progress_port: int = 8443
    """Port of the progress server (HTTPS)."""
    probe_port: int = 8080
    """Port of /healthz, /readyz and /metrics (HTTP)."""
    workers: int = 16
    """Jobs that are reconciled at the same time; also the limit of connections to the API server."""
    relist_seconds: float = 300
    """Seconds between two full comparisons with the API server."""
    job_network_policies: bool = False
    """Whether each job gets a NetworkPolicy: true or false."""
    job_network_ports: tuple[int, ...] = ()
    """TCP ports that it opens to any address beside those of S3, separated by commas."""
    allow_privileged_fields: bool = False
    """Whether the chart's admission policy is installed, so that privileged fields may be trusted: true or false."""
    force_delete_after_seconds: float = 300
    """Seconds after its grace period at which a pod whose node does not end it is removed by force; 0 never."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    stage_resources: Resources = field(default_factory=Resources)
    """STAGE_RESOURCES: requests and limits of the prepare and export pods where a job sets none, as JSON."""
    prices: Prices = field(default_factory=Prices)
    """What a GPU costs per hour, as JSON; without it status.usage has no cost."""
    metrics_job_limit: int = 100
    """Running jobs that have metrics of their own; 0 gives none to any."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings. Raises SettingsError with the variable's name and what it must be."""
        read = _Reader(environment)
        return cls(
            operator_namespace=read.required("OPERATOR_NAMESPACE"),
            trainer_image=read.required("TRAINER_IMAGE"),
            progress_url=read.https_url("PROGRESS_URL"),
            watch_namespaces=read.names("WATCH_NAMESPACE"),
            lease_name=read.text("LEASE_NAME", cls.lease_name),
            pod_name=read.text("POD_NAME", socket.gethostname()),
            pod_ip=read.text("POD_IP", cls.pod_ip),
            tls_cert_file=Path(read.text("TLS_CERT_FILE", str(cls.tls_cert_file))),
            tls_key_file=Path(read.text("TLS_KEY_FILE", str(cls.tls_key_file))),
            tls_ca_file=Path(read.text("TLS_CA_FILE", str(cls.tls_ca_file))),
            progress_port=int(read.number("PROGRESS_PORT", cls.progress_port, low=0, high=65535)),
            probe_port=int(read.number("PROBE_PORT", cls.probe_port, low=0, high=65535)),
            workers=int(read.number("WORKERS", cls.workers, low=1, high=256)),
            relist_seconds=read.number("RELIST_SECONDS", cls.relist_seconds, low=1, high=86400),
            job_network_policies=read.flag("JOB_NETWORK_POLICIES"),
            job_network_ports=read.ports("JOB_NETWORK_PORTS"),
            allow_privileged_fields=read.flag("ALLOW_PRIVILEGED_FIELDS"),
            force_delete_after_seconds=read.number(
                "FORCE_DELETE_AFTER_SECONDS", cls.force_delete_after_seconds, low=0, high=86400
            ),
            log_level=read.choice("LOG_LEVEL", cls.log_level, LOG_LEVELS),
            stage_resources=read.record("STAGE_RESOURCES", Resources, RESOURCES_EXAMPLE),
            prices=read.record("PRICES", Prices, PRICES_EXAMPLE),
            metrics_job_limit=int(read.number("METRICS_JOB_LIMIT", cls.metrics_job_limit, low=0, high=10000)),
        )


@dataclass(frozen=True)
class _Reader:
    """Reads one variable after the other; an empty variable counts as not set."""

    environment: Mapping[str, str]

    def text(self, name: str, default: str) -> str:
        return self.environment.get(name, "").strip() or default

    def required(self, name: str) -> str:
        value = self.text(name, "")
        if not value:
            raise SettingsError(f"environment variable {name} is not set; the chart sets it")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        parts = [part.strip() for part in self.text(name, "").split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))

    def ports(self, name: str) -> tuple[int, ...]:
        numbers = self.names(name)
        if not all(number.isdecimal() and 1 <= int(number) <= 65535 for number in numbers):
            text = self.text(name, "")
            raise SettingsError(f"environment variable {name} is {text!r}; it must be ports from 1 to 65535")
        return tuple(int(number) for number in numbers)

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError as error:
            raise SettingsError(f"environment variable {name} is {text!r}; it must be a number") from error
        if not low <= value <= high:
            raise SettingsError(f"environment variable {name} is {text}; it must be from {low:g} to {high:g}")
        return value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default).upper()
        if value not in allowed:
            raise SettingsError(f"environment variable {name} is {value!r}; it must be one of {', '.join(allowed)}")
        return value

    def flag(self, name: str) -> bool:
        return self.choice(name, "FALSE", ("TRUE", "FALSE")) == "TRUE"

    def https_url(self, name: str) -> str:
        value = self.required(name).rstrip("/")
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname:
            raise SettingsError(f"environment variable {name} is {value!r}; it must be like https://host:8443")
        return value

    def record(self, name: str, kind: type[R], example: str) -> R:
        text = self.text(name, "{}")
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise SettingsError(f"environment variable {name} must be JSON like {example}: {what}") from error
