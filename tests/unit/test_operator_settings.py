"""Settings from the environment: every field, and a sentence for what cannot be used."""

import dataclasses
from pathlib import Path

import pytest

from finetune_operator.settings import Settings, SettingsError

NEEDED = {
    "OPERATOR_NAMESPACE": "ml",
    "TRAINER_IMAGE": "trainer:1",
    "PROGRESS_URL": "https://finetune-operator.ml.svc:8443/",
}
ALL = {
    **NEEDED,
    "WATCH_NAMESPACE": "a, b,,a",
    "LEASE_NAME": "lease",
    "POD_NAME": "pod-1",
    "POD_IP": "10.0.0.7",
    "TLS_CERT_FILE": "/tls/c",
    "TLS_KEY_FILE": "/tls/k",
    "TLS_CA_FILE": "/tls/a",
    "PROGRESS_PORT": "9443",
    "PROBE_PORT": "9080",
    "WORKERS": "4",
    "RELIST_SECONDS": "30",
    "JOB_NETWORK_POLICIES": "true",
    "JOB_NETWORK_PORTS": "3128, 5000",
    "ALLOW_PRIVILEGED_FIELDS": "true",
    "FORCE_DELETE_AFTER_SECONDS": "60",
    "LOG_LEVEL": "debug",
    "STAGE_RESOURCES": '{"requests": {"cpu": "500m"}, "limits": {"memory": "2Gi"}}',
    "PRICES": '{"currency": "EUR", "gpuHour": {"nvidia.com/gpu": 2.5}}',
    "METRICS_JOB_LIMIT": "7",
}


def test_what_is_needed_is_enough() -> None:
    settings = Settings.from_environment(NEEDED)
    assert settings.watch_namespaces == ()
    assert (settings.workers, settings.relist_seconds, settings.progress_port) == (16, 300, 8443)
    assert settings.progress_url == "https://finetune-operator.ml.svc:8443"


def test_every_field_comes_from_its_variable() -> None:
    settings = Settings.from_environment(ALL)
    assert settings.watch_namespaces == ("a", "b")
    assert (settings.lease_name, settings.pod_name) == ("lease", "pod-1")
    assert (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file) == (
        Path("/tls/c"),
        Path("/tls/k"),
        Path("/tls/a"),
    )
    assert (settings.progress_port, settings.probe_port, settings.workers) == (9443, 9080, 4)
    assert (settings.relist_seconds, settings.log_level) == (30, "DEBUG")
    assert settings.job_network_ports == (3128, 5000)
    assert settings.stage_resources.requests == {"cpu": "500m"}
    defaults = Settings.from_environment(NEEDED)
    same = {
        field.name
        for field in dataclasses.fields(Settings)
        if getattr(settings, field.name) == getattr(defaults, field.name)
    }
    assert same == {"operator_namespace", "trainer_image", "progress_url"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OPERATOR_NAMESPACE", "", "is not set"),
        ("TRAINER_IMAGE", "  ", "is not set"),
        ("PROGRESS_URL", "http://x:1", "must be like https://host:8443"),
        ("PROGRESS_URL", "finetune", "must be like https://host:8443"),
        ("WORKERS", "many", "must be a number"),
        ("WORKERS", "0", "must be from 1 to 256"),
        ("WORKERS", "nan", "must be from 1 to 256"),
        ("PROBE_PORT", "70000", "must be from 0 to 65535"),
        ("RELIST_SECONDS", "0", "must be from 1 to 86400"),
        ("JOB_NETWORK_PORTS", "80,http", "must be ports from 1 to 65535"),
        ("JOB_NETWORK_PORTS", "0", "must be ports from 1 to 65535"),
        ("LOG_LEVEL", "loud", "must be one of DEBUG, INFO, WARNING, ERROR"),
        ("STAGE_RESOURCES", "{", "must be JSON like"),
        ("STAGE_RESOURCES", '{"request": {}}', "must be JSON like"),
        ("PRICES", '{"currency": "euro"}', "must be JSON like .*: currency: "),
        ("PRICES", '{"gpuHour": {"nvidia.com/gpu": -1}}', "gpuHour.nvidia.com/gpu: "),
        ("METRICS_JOB_LIMIT", "-1", "must be from 0 to 10000"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"environment variable {name} .*{says}"):
        Settings.from_environment({**ALL, name: value})
