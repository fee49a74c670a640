"""What a written status adds to the counters, what a replica tells of itself, and that no series is unbounded."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import finetune_operator
from finetune_api.reasons import Phase
from finetune_api.status import FineTuneJobStatus, Restarts, Usage
from finetune_loopback.certificates import write_certificate
from finetune_operator.metrics import Metrics
from finetune_operator.status_metrics import count_status
from finetune_operator.tls import Certificate
from finetune_operator.x509_validity import not_after

ROOT = Path(__file__).resolve().parents[2]
T0 = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def status(phase: Phase = Phase.RUNNING, *, after: float = 0, **changes) -> FineTuneJobStatus:
    return FineTuneJobStatus(phase=phase, phase_time=T0 + timedelta(seconds=after), **changes)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"finetune_operator_{name}", labels)


def counted(old: FineTuneJobStatus, new: FineTuneJobStatus, reason: str = "Crashed") -> Metrics:
    metrics = Metrics()
    count_status(metrics, namespace="ml", old=old, new=new, reason=reason)
    return metrics


def test_the_time_in_a_phase_is_told_when_it_is_left() -> None:
    metrics = counted(status(Phase.STARTING), status(Phase.RUNNING, after=42))
    assert value(metrics, "phase_seconds_sum", phase="Starting") == 42
    assert value(metrics, "phase_seconds_bucket", phase="Starting", le="30.0") == 0
    assert value(metrics, "phase_seconds_bucket", phase="Starting", le="60.0") == 1
    assert value(metrics, "phase_seconds_count", phase="Running") is None


@pytest.mark.parametrize(
    ("old", "new"),
    [(status(), status(message="other words")), (FineTuneJobStatus(), status(Phase.PREPARING))],
    ids=["same phase", "first phase"],
)
def test_no_time_is_told_of_a_phase_that_was_not_left(old: FineTuneJobStatus, new: FineTuneJobStatus) -> None:
    assert not [
        s for f in counted(old, new).registry.collect() if f.name.endswith("phase_seconds") for s in f.samples
    ]


def test_restarts_count_by_reason() -> None:
    metrics = counted(status(), status(Phase.RESTARTING, restarts=Restarts(total=1)))
    assert value(metrics, "restarts_total", namespace="ml", reason="Crashed") == 1


def test_an_end_counts_once() -> None:
    metrics = counted(status(), status(Phase.FAILED))
    assert value(metrics, "finished_jobs_total", namespace="ml", phase="Failed", reason="Crashed") == 1
    metrics = counted(status(Phase.FAILED), status(Phase.FAILED))
    assert value(metrics, "finished_jobs_total", namespace="ml", phase="Failed", reason="Crashed") is None


def test_usage_counts_what_is_new() -> None:
    before = status(usage=Usage(node_seconds=100, gpu_seconds=800, wasted_seconds=10))
    after = status(usage=Usage(node_seconds=150, gpu_seconds=1200, wasted_seconds=30))
    metrics = counted(before, after)
    assert value(metrics, "node_seconds_total", namespace="ml") == 50
    assert value(metrics, "gpu_seconds_total", namespace="ml") == 400
    assert value(metrics, "wasted_node_seconds_total", namespace="ml") == 20
    assert value(metrics, "wasted_gpu_seconds_total", namespace="ml") == 160


def test_usage_that_begins_anew_takes_nothing_back() -> None:
    metrics = counted(status(usage=Usage(node_seconds=100, gpu_seconds=800)), status())
    assert value(metrics, "node_seconds_total", namespace="ml") is None


def test_jobs_without_gpus_waste_none() -> None:
    metrics = counted(status(), status(usage=Usage(node_seconds=50, wasted_seconds=20)))
    assert value(metrics, "wasted_node_seconds_total", namespace="ml") == 20
    assert value(metrics, "gpu_seconds_total", namespace="ml") is None
    assert value(metrics, "wasted_gpu_seconds_total", namespace="ml") is None


def test_a_replica_tells_whether_it_leads_and_its_version() -> None:
    metrics, leads = Metrics(), True
    metrics.watch_replica(leads=lambda: leads, certificate_end=lambda: T0)
    assert value(metrics, "leader") == 1
    leads = False
    assert value(metrics, "leader") == 0
    assert value(metrics, "build_info", version=finetune_operator.__version__) == 1
    assert value(metrics, "certificate_end_timestamp_seconds") == T0.timestamp()


def test_a_certificate_that_cannot_be_read_has_no_end() -> None:
    metrics = Metrics()
    metrics.watch_replica(leads=lambda: True, certificate_end=lambda: None)
    assert value(metrics, "certificate_end_timestamp_seconds") is None


def test_the_version_is_that_of_package_and_chart() -> None:
    chart = yaml.safe_load((ROOT / "charts/finetune-operator/Chart.yaml").read_text())
    assert f'version = "{finetune_operator.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert chart["appVersion"] == finetune_operator.__version__


def test_the_process_and_its_failures_are_there_from_the_start() -> None:
    text = Metrics().render().decode()
    assert "process_resident_memory_bytes" in text
    assert "process_cpu_seconds_total" in text
    for cause in ("transient", "refused", "bug"):
        assert f'finetune_operator_reconcile_failures_total{{cause="{cause}"}} 0.0' in text
    assert "_created" not in text


def pem(end: datetime, begin: datetime = T0) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "progress")])
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
    builder = builder.serial_number(2**150).not_valid_before(begin).not_valid_after(end)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "end", [T0, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_the_end_of_a_certificate(end: datetime) -> None:
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    assert not_after(b"some words\n" + pem(end, begin) + pem(T0 + timedelta(days=1))) == end


def test_the_end_of_a_certificate_of_the_last_century() -> None:
    end = datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert not_after(pem(end, datetime(1980, 1, 1, tzinfo=UTC))) == end


@pytest.mark.parametrize("text", [b"", b"no certificate", pem(T0)[:200], pem(T0).replace(b"MII", b"AAA", 1)])
def test_what_is_no_certificate_has_no_end(text: bytes) -> None:
    assert not_after(text) is None


def test_the_end_is_that_of_the_certificate_or_its_authority_whichever_is_first(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    files = {name: tmp_path / f"{part}" for name, part in (("cert_file", "tls.crt"), ("ca_file", "ca.crt"))}
    own = x509.load_pem_x509_certificate(files["cert_file"].read_bytes()).not_valid_after_utc
    assert Certificate(key_file=tmp_path / "tls.key", **files).end == own
    files["ca_file"].write_bytes(pem(T0))
    assert Certificate(key_file=tmp_path / "tls.key", **files).end == min(own, T0)
