"""The progress server under attack, over TLS and with the API server's own tokens: what is refused, what it costs.

Whatever comes in, the operator goes on with its jobs, its memory stays bounded, and nothing a user wrote gets into
its log unescaped.
"""

import contextlib
import gzip
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import TOKEN_AUDIENCE
from finetune_loopback import flood
from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator

HOME, WATCHED, ELSEWHERE = "attack-operator", "attack", "attack-elsewhere"
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
DONE = json.dumps({"reason": "Succeeded"})
SAMPLE = {"attempt": 1, "progress": {"step": 1, "totalSteps": 100, "loss": 2.5}}
PATH = f"/v1/namespaces/{WATCHED}/jobs/tune/progress"
MEMORY_MB = 80.0
"""What an attack may cost, beyond what the operator takes at rest."""
OFFERED_PER_SECOND = 10_000
FLOOD_SECONDS = 6.0
FIRST_CHILD_SECONDS = 5.0


@pytest.fixture(scope="module")
def operator(crd_installed: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    for name in (HOME, WATCHED, ELSEWHERE):
        crd_installed.namespace(name)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    directory = tmp_path_factory.mktemp("operator")
    watch = (WATCHED,)
    with running_operator(crd_installed, directory, namespace=HOME, watch=watch, LOG_LEVEL="DEBUG") as process:
        yield process


@pytest.fixture(scope="module")
def cluster(crd_installed: KubeApi, operator: OperatorProcess) -> Namespace:
    """The watched namespace, with a job `tune` in training."""
    found = Namespace(crd_installed, WATCHED)
    found.submit(minimal_job("tune", **TWO_NODES))
    found.succeed("tune-prepare", message=DONE)
    found.start("tune-a1")
    found.await_phase("tune", "Running")
    return found


@pytest.fixture(scope="module")
def token(cluster: Namespace) -> str:
    """The token of the pod that may speak."""
    pods = cluster.pods().values()
    labels = "batch.kubernetes.io/job-completion-index"
    pod = next(one for one in pods if one["metadata"]["labels"].get(labels) == "0")
    return cluster.api.token_for(WATCHED, "default", audience=TOKEN_AUDIENCE, pod=pod)


@pytest.fixture(autouse=True)
def survives(operator: OperatorProcess, cluster: Namespace) -> Iterator[None]:
    """Hold after each test that the process is well, small, and still the leader."""
    before = memory_mb(operator)
    yield
    grown = memory_mb(operator) - before
    print(f"memory: {before:.0f} MB before, {grown:+.1f} MB after, peak {memory_mb(operator, 'VmHWM'):.0f} MB")
    assert memory_mb(operator, "VmHWM") - before < MEMORY_MB
    assert operator.is_ready()
    assert operator.probe("/healthz") == 200


def memory_mb(operator: OperatorProcess, name: str = "VmRSS") -> float:
    """Return the process's resident memory, or its peak (VmHWM)."""
    lines = Path(f"/proc/{operator.process.pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def connect(operator: OperatorProcess) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(operator.tls / "ca.crt"))
    plain = socket.create_connection(("127.0.0.1", operator.progress_port), timeout=20)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def post(operator: OperatorProcess, token: str, body: Any, *, path: str = PATH, **headers: str) -> int:
    """Post bytes, or chunks of them; return the status, 0 when the connection was closed instead."""
    context = ssl.create_default_context(cafile=str(operator.tls / "ca.crt"))
    client = http.client.HTTPSConnection("127.0.0.1", operator.progress_port, timeout=20, context=context)
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(client):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            client.request("POST", path, body, sent, encode_chunked=not isinstance(body, bytes))
        try:
            return client.getresponse().status
        except (ConnectionError, ssl.SSLError, http.client.HTTPException):
            return 0


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 65_536


BODIES = {
    "NaN": (b'{"attempt": 1, "progress": {"step": 1, "totalSteps": 2, "loss": NaN}}', {}, 422),
    "infinity": (b'{"attempt": 1, "progress": {"step": 1, "totalSteps": 2, "loss": Infinity}}', {}, 422),
    "minus infinity": (b'{"attempt": 1, "progress": {"step": 1, "totalSteps": 2, "loss": -Infinity}}', {}, 422),
    "1e400": (b'{"attempt": 1, "progress": {"step": 1, "totalSteps": 2, "loss": 1e400}}', {}, 422),
    "a step of 400 digits": (
        b'{"attempt": 1, "progress": {"totalSteps": 1, "step": ' + b"9" * 400 + b"}}",
        {},
        422,
    ),
    "deep nesting": (b'{"attempt": 1, "progress": ' + b"[" * 60_000, {}, 422),
    "no UTF-8": (b'{"attempt": "\xff\xfe"}', {}, 422),
    "10 MiB, declared": (b" " * 10 * 1024 * 1024, {}, 413),
    "a form": (b"attempt=1", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
    "gzip of 50 MB": (gzip.compress(b" " * 50_000_000), {"Content_Encoding": "gzip"}, 415),
    "a huge header": (b"{}", {"X_More": "x" * 100_000}, 400),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_refused(operator: OperatorProcess, token: str, case: str) -> None:
    body, headers, status = BODIES[case]
    assert post(operator, token, body, **headers) in (status, 0 if len(body) > 1_000_000 else status)


ODD = {
    "numbers": {"step": 2**63 - 1, "totalSteps": 2**63 - 1, "loss": 1.7e308, "epoch": 5e-324, "gradNorm": -0.0},
    "below zero": {"step": -(2**63), "totalSteps": -1, "percent": -5, "estimatedRemainingSeconds": -(2**63)},
    "slow steps": {
        "step": 3,
        "totalSteps": 9,
        "medianStepSeconds": 1.7e308,
        "lastUpdateTime": "2026-01-01T00:00:00Z",
    },
    "the last day": {"step": 4, "totalSteps": 9, "lastUpdateTime": "9999-12-31T23:59:59Z"},
    "the first day": {"step": 5, "totalSteps": 9, "lastUpdateTime": "0001-01-01T00:00:00Z"},
    "a far zone": {"step": 6, "totalSteps": 9, "lastUpdateTime": "0001-01-01T00:00:00+23:59"},
    "no zone": {"step": 7, "totalSteps": 9, "lastUpdateTime": "2026-01-01T00:00:00"},
    "texts": {"step": 8, "totalSteps": 9, "eta": "\u0000\n\u001b" * 3000, "percentText": "%" * 5000},
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_sample_that_is_accepted_leaves_a_status_that_can_be_written_and_read(
    operator: OperatorProcess, cluster: Namespace, case: str
) -> None:
    """Or the job would never be looked at again. Its last word says the same."""
    name = f"odd-{case.replace(' ', '-')}"
    cluster.submit(minimal_job(name))
    cluster.succeed(f"{name}-prepare", message=DONE)
    (pod,) = cluster.start(f"{name}-a1")
    cluster.await_phase(name, "Running")
    voice = cluster.api.token_for(WATCHED, "default", audience=TOKEN_AUDIENCE, pod=pod)
    commit = {"uri": "s3://" + "\n\u001b" * 2000, "step": 2**63 - 1, "sizeBytes": 0, "time": "2999-12-31T23:59:59Z"}
    body = json.dumps({"attempt": 1, "progress": ODD[case], "lastCheckpoint": commit}).encode()
    answer = post(operator, voice, body, path=PATH.replace("tune", name))
    print(f"{case}: {answer}")
    assert answer in (204, 422)
    cluster.end_pod(pod, message=json.dumps({"reason": "Succeeded", "progress": ODD[case]}))
    cluster.complete(f"{name}-a1")
    cluster.succeed(f"{name}-export", message=DONE)
    cluster.await_phase(name, "Succeeded", seconds=10)
    assert operator.metric("finetune_operator_reconcile_failures_total", cause="bug") == 0
    assert operator.metric("finetune_operator_reconcile_failures_total", cause="refused") == 0


def test_a_body_of_10_mib_that_does_not_say_its_length_is_refused(operator: OperatorProcess, token: str) -> None:
    assert post(operator, token, chunks(160), Transfer_Encoding="chunked") in (413, 0)


def test_a_pod_of_another_namespace_may_not_speak_though_it_bears_the_same_name(
    operator: OperatorProcess, cluster: Namespace
) -> None:
    real = next(name for name in cluster.pods() if name.startswith("tune-a1-0"))
    body = {
        "metadata": {"name": real, "labels": cluster.pods()[real]["metadata"]["labels"]},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "trainer", "image": "x"}]},
    }
    twin = cluster.api.request("POST", f"/api/v1/namespaces/{ELSEWHERE}/pods", body=body)
    foreign = cluster.api.token_for(ELSEWHERE, "default", audience=TOKEN_AUDIENCE, pod=twin)
    assert post(operator, foreign, json.dumps(SAMPLE).encode()) == 403
    assert post(operator, foreign, json.dumps(SAMPLE).encode(), path=PATH.replace(WATCHED, ELSEWHERE)) == 404


def test_nothing_a_user_wrote_gets_into_the_log_unescaped(operator: OperatorProcess, token: str) -> None:
    evil = "%0a%7b%22level%22:%22error%22%7d%1b[31m"
    assert post(operator, token, b"{}", path=f"/v1/namespaces/{evil}/jobs/{evil}/progress") == 404
    assert post(operator, "forged\x1b[31m", b"{}") in (400, 401)
    assert post(operator, token, b'{"attempt": "\\u001b[31m\\n{\\"level\\": \\"error\\"}"}') == 422
    log = operator.log.read_bytes()
    assert b"\x1b" not in log
    assert token.encode() not in log
    for line in log.splitlines():
        assert json.loads(line)["level"] in ("debug", "info", "warning", "error")


@pytest.mark.slow
def test_slow_and_idle_connections_are_ended_and_cost_little(operator: OperatorProcess, token: str) -> None:
    """Some connections say nothing, or send a head or a body a byte at a time; another one posts all the while."""
    kinds = {
        "idle": b"",
        "half a head": b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "half a body": head(token, length=1000),
    }
    with contextlib.ExitStack() as stack:
        opened = [(kind, stack.enter_context(connect(operator))) for kind in kinds for _ in range(8)]
        bare = [
            stack.enter_context(socket.create_connection(("127.0.0.1", operator.progress_port))) for _ in range(5)
        ]
        for kind, connection in opened:
            connection.sendall(kinds[kind])
        began, ended, posted = time.monotonic(), Counter[str](), Counter[int]()
        while opened and time.monotonic() - began < 80:
            posted[post(operator, token, json.dumps(SAMPLE).encode())] += 1
            opened = [(kind, one) for kind, one in opened if not (is_over(one) and not ended.update([kind]))]
            for kind, one in opened:
                if kind != "idle":
                    with contextlib.suppress(OSError):
                        one.sendall(b"x")
            time.sleep(1.0)
        print(f"after {time.monotonic() - began:.0f} s ended: {dict(ended)}; posts meanwhile: {dict(posted)}")
        assert not opened
        assert all(is_over(one) for one in bare)
    assert posted[204] >= sum(posted.values()) - 2


def head(token: str, *, length: int) -> bytes:
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def is_over(connection: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            continue
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            connection.setblocking(True)
    return True


def test_one_address_cannot_take_every_connection(operator: OperatorProcess) -> None:
    with contextlib.ExitStack() as stack:
        opened = 0
        for _ in range(200):
            with contextlib.suppress(OSError):
                stack.enter_context(connect(operator))
                opened += 1
        print(f"{opened} of 200 connections were taken")
        assert 0 < opened <= 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["made-up tokens", "one good token"])
def test_ten_thousand_posts_a_second_keep_no_job_waiting(
    operator: OperatorProcess, cluster: Namespace, token: str, kind: str
) -> None:
    reviews, written = operator.metric("finetune_operator_token_reviews_total"), status_writes(cluster)
    name = f"in-time-{kind.split(maxsplit=1)[0]}"
    with contextlib.ExitStack() as stack:
        share = OFFERED_PER_SECOND / 2
        clients = [stack.enter_context(client(operator, share, token if kind[:3] == "one" else "")) for _ in range(2)]
        time.sleep(FLOOD_SECONDS / 3)
        began = time.monotonic()
        cluster.submit(minimal_job(name))
        cluster.await_pod(f"{name}-prepare", seconds=FIRST_CHILD_SECONDS)
        took = time.monotonic() - began
        tallies = [json.loads(one.communicate(timeout=60)[0]) for one in clients]
    offered, sent = (sum(tally[part] for tally in tallies) for part in ("offered", "sent"))
    answers = sum((Counter(tally["answers"]) for tally in tallies), Counter[str]())
    reviewed = operator.metric("finetune_operator_token_reviews_total") - reviews
    print(
        f"{kind}: {offered} posts offered in {FLOOD_SECONDS:.0f} s, {sent} sent, answers {dict(answers)},"
        f" {reviewed:.0f} token reviews; a job's first pod after {took:.1f} s"
    )
    assert offered >= 0.8 * OFFERED_PER_SECOND * FLOOD_SECONDS
    assert set(answers) <= {"204", "401", "429", "503"}
    assert reviewed <= 100 + 20 * (FLOOD_SECONDS + 5)
    assert status_writes(cluster) - written <= 2


def status_writes(cluster: Namespace) -> int:
    """Count the writes to the status of `tune` in the audit log."""
    lines = (json.loads(line) for line in cluster.api.audit_log.read_text().splitlines())
    places = ((line["verb"], line["objectRef"].get("namespace"), line["objectRef"].get("name")) for line in lines)
    return sum(place == ("patch", WATCHED, "tune") for place in places)


@contextlib.contextmanager
def client(operator: OperatorProcess, rate: float, token: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a client that offers posts at this rate."""
    options = {
        "port": operator.progress_port,
        "ca": operator.tls / "ca.crt",
        "path": PATH,
        "body": json.dumps(SAMPLE),
        "rate": rate,
        "seconds": FLOOD_SECONDS,
        "token": token,
    }
    command = [sys.executable, "-m", flood.__name__, *(f"--{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "PYTHONPATH": str(Path(flood.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
