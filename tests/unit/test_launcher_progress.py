"""Progress over real TLS: newest wins, urgent goes at once, and a broken endpoint never harms the training."""

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_api.stage import ProgressSample
from finetune_api.status import Progress
from finetune_trainer import progress
from finetune_trainer.progress import Endpoint, ProgressPoster, open_progress
from finetune_trainer.stage_input import read_pod

SECONDS = 20.0


def certificate(folder: Path) -> tuple[Path, str]:
    """Make a self-signed certificate for 127.0.0.1; return the file with key and certificate, and the PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(secret + pem)
    return folder / "both.pem", pem.decode()


@dataclass
class Operator:
    """A stand-in for the operator's progress server."""

    endpoint: Endpoint
    arrived: threading.Condition = field(default_factory=threading.Condition)
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; 204 when used up."""

    def steps(self) -> list[int]:
        return [body["progress"]["step"] for _, _, body in self.requests]

    def await_requests(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests) >= count, SECONDS)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    both, pem = certificate(tmp_path)
    (tmp_path / "token").write_text("first\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stand_in.arrived:
                stand_in.requests.append((self.path, self.headers["Authorization"], body))
                self.send_response(stand_in.answers.pop(0) if stand_in.answers else 204)
                stand_in.arrived.notify_all()
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}/v1/namespaces/n/jobs/j/progress"
    stand_in = Operator(Endpoint(url, pem, tmp_path / "token"))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield stand_in
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_FIRST_PAUSE", 0.05)


def sample(step: int) -> ProgressSample:
    return ProgressSample(attempt=1, progress=Progress(step=step, total_steps=10, loss=1.5))


def test_a_sample_arrives_as_the_contract_says(operator: Operator) -> None:
    poster = ProgressPoster(operator.endpoint)
    poster.post(sample(1))
    operator.await_requests(1)
    poster.close()
    path, authorization, body = operator.requests[0]
    assert path == "/v1/namespaces/n/jobs/j/progress"
    assert authorization == "Bearer first"
    assert ProgressSample.model_validate(body) == sample(1)


def test_the_token_is_read_for_each_request(operator: Operator) -> None:
    poster = ProgressPoster(operator.endpoint, interval=0)
    poster.post(sample(1))
    operator.await_requests(1)
    operator.endpoint.token_file.write_text("second")
    poster.post(sample(2))
    operator.await_requests(2)
    poster.close()
    assert [authorization for _, authorization, _ in operator.requests] == ["Bearer first", "Bearer second"]


def test_the_newest_of_many_samples_is_sent(operator: Operator) -> None:
    poster = ProgressPoster(operator.endpoint, interval=600)
    poster.post(sample(1))
    operator.await_requests(1)
    for step in range(2, 50):
        poster.post(sample(step))
    poster.close()
    assert operator.steps() == [1, 49]


def test_an_urgent_sample_does_not_wait(operator: Operator) -> None:
    poster = ProgressPoster(operator.endpoint, interval=600)
    poster.post(sample(1))
    operator.await_requests(1)
    poster.post(sample(2), urgent=True)
    operator.await_requests(2)
    poster.close()
    assert operator.steps() == [1, 2]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_refusal_that_may_pass_is_tried_again(operator: Operator, status: int) -> None:
    operator.answers = [status, status]
    poster = ProgressPoster(operator.endpoint, interval=0)
    poster.post(sample(1))
    operator.await_requests(3)
    poster.close()
    assert operator.steps() == [1, 1, 1]


@pytest.mark.parametrize("status", [409, 413, 422])
def test_a_refused_sample_is_not_sent_again(operator: Operator, status: int) -> None:
    operator.answers = [status]
    poster = ProgressPoster(operator.endpoint, interval=0)
    poster.post(sample(1))
    operator.await_requests(1)
    poster.post(sample(2))
    operator.await_requests(2)
    poster.close()
    assert operator.steps() == [1, 2]


def test_closing_sends_what_waits(operator: Operator) -> None:
    poster = ProgressPoster(operator.endpoint, interval=600)
    poster.post(sample(1))
    operator.await_requests(1)
    poster.post(sample(2))
    poster.close()
    assert operator.steps() == [1, 2]


def test_a_certificate_of_another_authority_is_refused(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, foreign = certificate(tmp_path / "other")
    poster = ProgressPoster(operator.endpoint._replace(ca_pem=foreign), interval=0)
    poster.post(sample(1))
    poster.close()
    assert operator.requests == []


BROKEN = [
    {"url": "https://127.0.0.1:9/x"},
    {"url": "https://name.invalid/x"},
    {"url": "nonsense"},
    {"ca_pem": "nonsense"},
    {"token_file": Path("/absent")},
]


@pytest.mark.parametrize("change", BROKEN)
def test_a_broken_endpoint_harms_nobody(
    operator: Operator, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    poster = ProgressPoster(operator.endpoint._replace(**change), interval=0)
    poster.post(sample(1))
    poster.close()
    start = time.monotonic()
    poster.post(sample(2))
    assert time.monotonic() - start < 1
    assert "progress-not-sent" in capsys.readouterr().out


def test_without_a_url_nothing_is_posted() -> None:
    poster = open_progress(read_pod({}))
    before = threading.active_count()
    poster.post(sample(1), urgent=True)
    assert threading.active_count() == before
    poster.close()
