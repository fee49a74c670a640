"""What /metrics and status.usage tell of a life: the real operator process against a real API server."""

import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator

HOME = "operator-metrics"
WATCHED = "metrics"
PRICES = {"currency": "EUR", "gpuHour": {"nvidia.com/gpu": 3.6}}
EIGHT_GPUS = {
    "distributed": {"numNodes": 2, "processesPerNode": 4, "device": "gpu"},
    "training": {"globalBatchSize": 8},
}


@pytest.fixture(scope="module")
def operator(crd_installed: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    crd_installed.namespace(HOME)
    crd_installed.namespace(WATCHED)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    place = {"namespace": HOME, "watch": (WATCHED,), "PRICES": json.dumps(PRICES), "METRICS_JOB_LIMIT": "1"}
    with running_operator(crd_installed, tmp_path_factory.mktemp("operator"), **place) as process:
        yield process


@pytest.fixture
def cluster(crd_installed: KubeApi, operator: OperatorProcess) -> Namespace:
    return Namespace(crd_installed, WATCHED)


def train(cluster: Namespace, name: str, *, for_seconds: float = 0) -> list[dict[str, object]]:
    """Bring a job to Running on nodes that took its pods on so long ago; return the pods."""
    cluster.submit(minimal_job(name, **EIGHT_GPUS))
    cluster.succeed(f"{name}-prepare", message=json.dumps({"reason": "Succeeded"}))
    pods = cluster.start(f"{name}-a1", run=False)
    began = (datetime.now(UTC) - timedelta(seconds=for_seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
    for pod in pods:
        cluster.pod_status(pod, {"startTime": began})
        cluster.run_pod(pod)
    cluster.await_phase(name, "Running")
    return pods


def test_the_replica_tells_of_itself(operator: OperatorProcess) -> None:
    assert operator.metric("finetune_operator_leader") == 1
    assert operator.metric("finetune_operator_build_info") == 1
    assert operator.metric("finetune_operator_certificate_end_timestamp_seconds") > datetime.now(UTC).timestamp()
    assert operator.metric("finetune_operator_api_call_seconds_count", verb="list") >= 1
    assert operator.metric("process_resident_memory_bytes") > 1e6


def test_a_failed_attempt_is_used_and_wasted(cluster: Namespace, operator: OperatorProcess) -> None:
    first, second = train(cluster, "waste", for_seconds=1000)
    cluster.end_pod(first, code=1)
    cluster.end_pod(second, code=143)
    cluster.fail("waste-a1")

    usage = cluster.await_phase("waste", "Restarting")["usage"]

    assert 2000 <= usage["nodeSeconds"] < 2400
    assert usage["gpuSeconds"] == 4 * usage["nodeSeconds"]
    assert usage["wastedSeconds"] == usage["nodeSeconds"]
    assert (usage["cost"], usage["currency"]) == (pytest.approx(usage["gpuSeconds"] / 1000), "EUR")
    here = {"namespace": WATCHED}
    assert operator.metric("finetune_operator_node_seconds_total", **here) == usage["nodeSeconds"]
    assert operator.metric("finetune_operator_gpu_seconds_total", **here) == usage["gpuSeconds"]
    assert operator.metric("finetune_operator_wasted_gpu_seconds_total", **here) == usage["gpuSeconds"]
    assert operator.metric("finetune_operator_restarts_total", reason="Crashed", **here) == 1
    for phase in ("Preparing", "Starting", "Running"):
        assert operator.metric("finetune_operator_phase_seconds_count", phase=phase) == 1
    cluster.delete_tune("waste")


def test_series_of_a_job_end_with_it_and_are_limited(cluster: Namespace, operator: OperatorProcess) -> None:
    train(cluster, "one")
    train(cluster, "two")
    assert with_series(operator) == {"one"}
    assert operator.metric("finetune_operator_jobs_without_series") == 1
    cluster.delete_tune("one")
    cluster.await_gone(lambda: "one" in with_series(operator))
    assert with_series(operator) == {"two"}
    cluster.delete_tune("two")
    cluster.await_gone(lambda: with_series(operator))
    assert operator.metric("finetune_operator_jobs_without_series") == 0


def with_series(operator: OperatorProcess) -> set[str]:
    """Return the names of the jobs that have series of their own."""
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.probe_port}/metrics", timeout=5) as reply:
        return set(
            re.findall(r'^finetune_operator_job_heartbeat_.*name="([^"]+)"', reply.read().decode(), re.MULTILINE)
        )
