"""Lives of a job on a real cluster: undisturbed, a rank killed, the operator killed, deleted half-way."""

import json

import pytest

from finetune_api.reasons import Phase
from quickstart.platform import install_operator
from quickstart.steps import kubectl

pytestmark = pytest.mark.timeout(1200)

KILL_WORKER = (
    "import os, pathlib, signal\n"
    "for entry in pathlib.Path('/proc').iterdir():\n"
    "    if entry.name.isdigit() and b'train-worker' in (entry / 'cmdline').read_bytes().split(b'\\0'):\n"
    "        os.kill(int(entry.name), signal.SIGKILL); print('killed'); break\n"
)


def training_from(step):
    return lambda status: status.phase is Phase.RUNNING and (status.progress.step if status.progress else 0) >= step


def committed(status):
    return status.phase is Phase.RUNNING and status.last_checkpoint is not None


def steps_logged(cluster, name, attempt):
    """Return {step: loss} as rank 0 of an attempt printed it."""
    pods = cluster.get("pods", selector=f"finetune-operator.io/job={name},finetune-operator.io/attempt={attempt}")[
        "items"
    ]
    first = next(
        pod for pod in pods if pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "0"
    )
    lines = cluster.log(first["metadata"]["name"])
    return {line["step"]: line["loss"] for line in lines if line.get("event") == "step"}


def test_status_matches_the_trainers_log(cluster):
    name = "undisturbed"
    cluster.apply(name, data={"split": {"validation": 0.1, "test": 0}})
    seen = {}

    def collect(status):
        if status.phase is Phase.RUNNING and status.progress and status.progress.loss is not None:
            seen[status.progress.step] = status.progress.loss
        return status.phase.is_terminal

    table = None
    cluster.wait(name, training_from(4))
    table = kubectl("get", "ftj", name, "-n", cluster.namespace)
    status = cluster.wait(name, collect)
    assert status.phase is Phase.SUCCEEDED, status.message
    logged = steps_logged(cluster, name, 1)
    assert sorted(logged) == list(range(1, 25))
    assert seen
    for step, loss in seen.items():
        assert loss == pytest.approx(logged[step], abs=1e-3)
    header, row = table.splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "STEP", "LOSS", "ETA", "NODES", "RESTARTS", "AGE"]
    assert row.split()[:2] == [name, "Running"]
    nodes = {pod["spec"]["nodeName"] for pod in cluster.pods(name, "train")}
    assert len(nodes) == 2


def test_a_killed_rank_costs_one_restart_and_no_step_beyond_the_commit(cluster):
    name = "killed-rank"
    cluster.apply(name)
    before = cluster.wait(name, committed)
    rank0 = next(
        pod["metadata"]["name"] for pod in cluster.pods(name, "train") if "-a1-0-" in pod["metadata"]["name"]
    )
    assert "killed" in kubectl("exec", "-n", cluster.namespace, rank0, "--", "python", "-c", KILL_WORKER)
    status = cluster.wait_end(name)
    assert status.phase is Phase.SUCCEEDED, status.message
    assert (status.restarts.total, status.restarts.counted, status.attempt) == (1, 1, 2)
    second = steps_logged(cluster, name, 2)
    assert min(second) > before.last_checkpoint.step
    first = steps_logged(cluster, name, 1)
    assert min(second) <= max(first) + 1
    assert max(second) == 24
    for step in set(first) & set(second):
        assert second[step] == pytest.approx(first[step], abs=1e-4)


def test_an_operator_killed_mid_run_changes_nothing(cluster):
    name = "killed-operator"
    cluster.apply(name)
    cluster.wait(name, training_from(1))
    pods = cluster.get(
        "pods", selector="app.kubernetes.io/name=finetune-operator", namespace=cluster.system_namespace
    )
    kubectl(
        "delete", "pod", "-n", cluster.system_namespace, "--grace-period=0", "--force",
        *(pod["metadata"]["name"] for pod in pods["items"]),
    )  # fmt: skip
    status = cluster.wait_end(name)
    assert status.phase is Phase.SUCCEEDED, status.message
    assert (status.restarts.total, status.attempt) == (0, 1)
    jobs = cluster.get("jobs", selector=f"finetune-operator.io/job={name}")["items"]
    assert sorted(job["metadata"]["name"] for job in jobs) == [f"{name}-a1", f"{name}-export", f"{name}-prepare"]


def test_deleting_a_job_half_way_leaves_nothing(cluster):
    name = "deleted"
    cluster.apply(name)
    cluster.wait(name, training_from(1))
    kubectl("delete", "ftj", name, "-n", cluster.namespace, "--wait")
    for kind in ("jobs", "pods", "services"):
        selector = f"finetune-operator.io/job={name}"
        kubectl("wait", "-n", cluster.namespace, kind, "-l", selector, "--for=delete", "--timeout=180s")
        assert cluster.get(kind, selector=selector)["items"] == []


def test_an_upgrade_keeps_the_certificate_and_the_helm_test_passes(platform):
    def certificate():
        secrets = json.loads(kubectl("get", "secrets", "-n", "finetune-operator", "-o", "json"))["items"]
        return [secret["data"] for secret in secrets if secret["type"] == "kubernetes.io/tls"]

    before = certificate()
    assert len(before) == 1
    install_operator("logLevel=DEBUG")
    assert certificate() == before
    install_operator()
