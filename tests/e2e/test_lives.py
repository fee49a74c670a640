"""Lives of a job on a real cluster: suspended, changed, queued. Faults are chaos's part: tests/chaos."""

import json

import pytest

from finetune_api.reasons import Phase, Reason
from quickstart.platform import install_operator
from quickstart.steps import kubectl

pytestmark = pytest.mark.timeout(1200)


def training_from(step):
    return lambda status: status.phase is Phase.RUNNING and (status.progress.step if status.progress else 0) >= step


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


def test_an_upgrade_keeps_the_certificate_and_the_helm_test_passes(platform):
    def certificate():
        secrets = json.loads(kubectl("get", "secrets", "-n", "finetune-operator", "-o", "json"))["items"]
        return [secret["data"] for secret in secrets if secret["type"] == "kubernetes.io/tls"]

    before = certificate()
    assert len(before) == 1
    install_operator("logLevel=DEBUG")
    assert certificate() == before
    install_operator()


def edit(cluster, name, **spec):
    kubectl("patch", "ftj", name, "-n", cluster.namespace, "--type=merge", "-p", json.dumps({"spec": spec}))


def is_suspended(status):
    return status.phase is Phase.SUSPENDED and status.reason is Reason.SUSPENDED


def test_a_suspended_job_commits_and_goes_on_at_that_step_and_expires_when_it_is_told_to(cluster):
    name, seen = "suspended", {}
    cluster.apply(name, checkpoint={"everySteps": 1000}, data={"split": {"validation": 0.1, "test": 0}})
    cluster.wait(name, training_from(3))
    header, row = kubectl("get", "ftj", name, "-n", cluster.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "STEP", "LOSS", "ETA", "NODES", "RESTARTS", "AGE"]
    assert row.split()[:2] == [name, "Running"]
    assert len({pod["spec"]["nodeName"] for pod in cluster.pods(name, "train")}) == 2
    edit(cluster, name, suspend=True)
    held = cluster.wait(name, is_suspended)
    assert held.last_checkpoint.step >= 3
    # One that has ended may be in view for a moment.
    assert {pod["status"]["phase"] for pod in cluster.pods(name, "train")} <= {"Succeeded", "Failed"}

    def collect(status):
        told = status.progress if status.attempt == 2 and status.phase is Phase.RUNNING else None
        # Of the step that the first attempt ended with, the second one tells nothing in its log.
        if told and told.loss and told.step > held.last_checkpoint.step:
            seen[told.step] = told.loss
        return status.phase.is_terminal

    edit(cluster, name, suspend=False)
    status = cluster.wait(name, collect)
    assert status.phase is Phase.SUCCEEDED, status.message
    assert (status.attempt, status.restarts.total, status.run_id) == (2, 0, held.run_id)
    second = steps_logged(cluster, name, 2)
    assert sorted(second) == list(range(held.last_checkpoint.step + 1, cluster.steps + 1))
    assert seen
    assert seen == pytest.approx({step: second[step] for step in seen}, abs=1e-3)
    assert status.usage.node_seconds > 0
    edit(cluster, name, ttlSecondsAfterFinished=0)
    kubectl("wait", "-n", cluster.namespace, "ftj", name, "--for=delete", "--timeout=60s")


def test_a_run_whose_training_was_changed_while_suspended_begins_anew(cluster):
    name = "changed"
    cluster.apply(name)
    cluster.wait(name, training_from(2))
    edit(cluster, name, suspend=True)
    held = cluster.wait(name, is_suspended)
    edit(cluster, name, suspend=False, training={"maxSteps": 4})
    status = cluster.wait_end(name)
    assert status.phase is Phase.SUCCEEDED, status.message
    assert status.run_id != held.run_id
    assert status.run_id.startswith(held.run_id)
    assert sorted(steps_logged(cluster, name, 2)) == [1, 2, 3, 4]


def test_a_queue_lets_the_attempt_go_and_takes_its_place_back(cluster):
    """Kueue's part is played by hand: it changes nothing but `suspend` of the Job."""
    name = "queued"
    job = cluster.manifest(name)
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    kubectl("apply", "-f", "-", text=json.dumps(job))

    def set_suspend(attempt, value):
        body = json.dumps({"spec": {"suspend": value}})
        kubectl("patch", "job", f"{name}-a{attempt}", "-n", cluster.namespace, "--type=merge", "-p", body)

    waiting = cluster.wait(name, lambda status: status.phase is Phase.QUEUED)
    assert waiting.attempt == 1
    assert cluster.pods(name, "train") == []
    set_suspend(1, False)
    cluster.wait(name, training_from(3))
    set_suspend(1, True)
    again = cluster.wait(name, lambda status: status.phase is Phase.QUEUED and status.attempt == 2)
    assert (again.restarts.total, again.restarts.counted) == (1, 0)
    assert again.last_checkpoint.step >= 3
    set_suspend(2, False)
    status = cluster.wait_end(name)
    assert status.phase is Phase.SUCCEEDED, status.message
    assert min(steps_logged(cluster, name, 2)) == again.last_checkpoint.step + 1
