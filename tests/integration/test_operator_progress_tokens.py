"""Progress over TLS with the API server's own pod-bound tokens: who is believed, who is not, and what is shown."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from finetune_api.stage import TOKEN_AUDIENCE
from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator

HOME, WATCHED = "tokens-operator", "tokens"
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
DONE = json.dumps({"reason": "Succeeded"})


@pytest.fixture(scope="module")
def operator(crd_installed: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    crd_installed.namespace(HOME)
    crd_installed.namespace(WATCHED)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    directory = tmp_path_factory.mktemp("operator")
    with running_operator(crd_installed, directory, namespace=HOME, watch=(WATCHED,)) as process:
        yield process
        print(process.log_text()[-2000:])


class Training:
    """A job in training, and the voices of its pods."""

    def __init__(self, api: KubeApi, operator: OperatorProcess, name: str) -> None:
        self.api, self.operator, self.name = api, operator, name
        self.cluster = Namespace(api, WATCHED)
        self.cluster.submit(minimal_job(name, **TWO_NODES))
        self.cluster.succeed(f"{name}-prepare", message=DONE)
        self.pods = self.cluster.start(f"{name}-a1")
        self.cluster.await_phase(name, "Running")

    def token(self, pod: dict[str, Any], *, audience: str = TOKEN_AUDIENCE) -> str:
        return self.api.token_for(WATCHED, "default", audience=audience, pod=pod)

    def post(self, token: str, *, step: int = 1, attempt: int = 1, **more: Any) -> int:
        progress = {"step": step, "totalSteps": 100, "percent": step, "loss": 2.5}
        body = {"attempt": attempt, "progress": progress, **more}
        return self.operator.post_progress(WATCHED, self.name, token=token, body=body)

    def await_step(self, step: int, *, seconds: float) -> float:
        """Wait until the status shows the step; return the seconds it took."""
        began = time.monotonic()
        shown = lambda status: status.get("progress", {}).get("step") == step  # noqa: E731 - one expression
        self.cluster.await_status(self.name, shown, seconds=seconds)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def training(crd_installed: KubeApi, operator: OperatorProcess) -> Training:
    return Training(crd_installed, operator, "tune")


def test_the_first_sample_shows_at_once_a_commit_too_and_the_rest_every_ten_seconds(training: Training) -> None:
    token = training.token(training.pods[0])
    assert training.post(token, step=1) == 204
    assert training.await_step(1, seconds=5) < 3
    assert training.post(token, step=2) == 204
    commit = {"uri": "s3://runs/c", "step": 3, "time": datetime.now(UTC).isoformat(), "sizeBytes": 7}
    assert training.post(token, step=3, lastCheckpoint=commit) == 204
    assert training.await_step(3, seconds=5) < 3
    status = training.cluster.tune("tune")["status"]
    assert status["lastCheckpoint"]["step"] == 3
    assert status["progress"]["loss"] == 2.5
    assert training.post(token, step=4) == 204
    assert training.await_step(4, seconds=15) > 5


def test_who_is_not_believed(training: Training, crd_installed: KubeApi) -> None:
    first, second = training.pods
    assert training.post(training.token(second)) == 403
    assert training.post(training.token(first, audience="https://kubernetes.default.svc")) == 401
    assert training.post(crd_installed.token_for(WATCHED, "default", audience=TOKEN_AUDIENCE)) == 401
    assert training.post(training.token(first), attempt=2) == 409
    assert training.post("not-a-token") == 401
    assert training.post(expired_token(crd_installed, first)) == 401
    assert training.post(training.token(first), step=-1, unknown=1) == 422


def expired_token(api: KubeApi, pod: dict[str, Any]) -> str:
    """Return a token of the API server's own key whose time is over."""
    key = serialization.load_pem_private_key((api.directory / "service-accounts.key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    good = api.token_for(WATCHED, "default", audience=TOKEN_AUDIENCE, pod=pod)
    header, payload, _ = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    past = int(time.time()) - 3600
    claims |= {"exp": past, "iat": past - 3600, "nbf": past - 3600}
    text = f"{header}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}"
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_a_pod_of_another_job_may_not_speak_for_this_one(
    training: Training, crd_installed: KubeApi, operator: OperatorProcess
) -> None:
    other = Training(crd_installed, operator, "other")
    assert training.post(other.token(other.pods[0])) == 403
    assert other.post(other.token(other.pods[0])) == 204


def test_a_pod_that_bears_our_labels_and_belongs_to_nobody_may_not_speak(training: Training) -> None:
    real = training.pods[0]
    forged = {
        "metadata": {"name": "forged", "labels": real["metadata"]["labels"]},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "trainer", "image": "x"}]},
    }
    pod = training.api.request("POST", f"/api/v1/namespaces/{WATCHED}/pods", body=forged)
    assert training.post(training.token(pod)) == 403
    training.cluster.remove_pod(pod)


def test_a_stale_attempt_is_refused_and_changes_nothing(crd_installed: KubeApi, operator: OperatorProcess) -> None:
    """A pod of attempt 1 that still speaks, after attempt 2 has begun, is told so."""
    training = Training(crd_installed, operator, "stale")
    zombie, peer = training.pods
    token = training.token(zombie)
    assert training.post(token, step=40) == 204
    training.await_step(40, seconds=5)
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    training.cluster.end_pod(zombie, code=137, conditions=[target])
    training.cluster.end_pod(peer, code=143)
    training.cluster.fail("stale-a1")
    successor = training.cluster.start("stale-a2")[0]
    training.cluster.await_phase("stale", "Running")
    assert training.post(token, step=99) == 409
    assert training.post(training.token(successor), step=41, attempt=2) == 204
    training.await_step(41, seconds=15)


def test_a_token_dies_with_its_pod(crd_installed: KubeApi, operator: OperatorProcess) -> None:
    training = Training(crd_installed, operator, "gone")
    token = training.token(training.pods[0])
    assert training.post(token) == 204
    training.cluster.remove_pod(training.pods[0])
    training.cluster.await_gone(lambda: training.post(token) == 204)
    assert training.post(token) in (401, 403)


def test_answers_are_kept_so_that_samples_do_not_load_the_api_server(
    training: Training, operator: OperatorProcess
) -> None:
    token = training.token(training.pods[0])
    before = operator.metric("finetune_operator_token_reviews_total")
    assert [training.post(token, step=50 + number) for number in range(10)] == [204] * 10
    assert operator.metric("finetune_operator_token_reviews_total") == before + 1
    assert operator.metric("finetune_operator_progress_samples_total", verdict="accepted") >= 10
    assert token not in operator.log_text()
