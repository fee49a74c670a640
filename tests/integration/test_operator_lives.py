"""Whole lives of FineTuneJobs: the real operator process against a real API server, under the chart's rights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import MERGE, KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator

HOME = "operator-lives"
WATCHED = "lives"
TWO_NODES = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}


@pytest.fixture(scope="module")
def operator(crd_installed: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One replica for all tests of this file."""
    crd_installed.namespace(HOME)
    crd_installed.namespace(WATCHED, **{"pod-security.kubernetes.io/enforce": "restricted"})
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    directory: Path = tmp_path_factory.mktemp("operator")
    with running_operator(crd_installed, directory, namespace=HOME, watch=(WATCHED,)) as process:
        yield process
        print(process.log_text()[-3000:])


@pytest.fixture
def cluster(crd_installed: KubeApi, operator: OperatorProcess) -> Namespace:
    return Namespace(crd_installed, WATCHED)


def words(reason: str, message: str = "", **parts: Any) -> str:
    """Return a termination message."""
    return json.dumps({"reason": reason, "message": message, **parts})


def audited(api: KubeApi, namespace: str, name: str) -> list[str]:
    """Return every write of an operator about one FineTuneJob and its children: verb and resource."""
    found = []
    for line in api.audit_log.read_text().splitlines():
        entry = json.loads(line)
        reference = entry["objectRef"]
        ours = entry["user"]["username"].endswith(":finetune-operator") and reference.get("namespace") == namespace
        if ours and str(reference.get("name", "")).startswith(name):
            kind = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
            found.append(f"{entry['verb']} {kind} {entry['responseStatus']['code']}")
    return found


def test_success_from_apply_to_the_result(cluster: Namespace, operator: OperatorProcess) -> None:
    cluster.submit(minimal_job("good", **TWO_NODES))
    prepare = cluster.await_pod("good-prepare")
    container = prepare["spec"]["containers"][0]
    assert container["image"] == "registry.example/trainer:test"
    assert container["command"] == ["python", "-m", "finetune_trainer", "prepare"]
    assert prepare["metadata"]["ownerReferences"][0]["controller"] is True
    assert cluster.await_phase("good", "Preparing")["observedGeneration"] == 1

    cluster.succeed("good-prepare", message=words("Succeeded"))
    train = cluster.await_job("good-a1")
    assert (train["spec"]["completions"], train["spec"]["completionMode"]) == (2, "Indexed")
    assert cluster.await_phase("good", "Starting")["attempt"] == 1
    pods = cluster.start("good-a1")
    cluster.await_phase("good", "Running")
    for pod in pods:
        cluster.end_pod(pod, message=words("Succeeded"))
    cluster.complete("good-a1")

    cluster.await_phase("good", "Exporting")
    cluster.succeed("good-export", message=words("Succeeded"))
    status = cluster.await_phase("good", "Succeeded")
    assert status["restarts"]["total"] == 0
    assert sorted(cluster.jobs()) == ["good-a1"]
    phases = [reason for _, reason in cluster.events("good")]
    assert phases == ["Preparing", "Starting", "Running", "Exporting", "Succeeded"]
    writes = audited(cluster.api, WATCHED, "good")
    print(f"writes of one life of five steps: {len(writes)}: {writes}")
    status_writes = [write for write in writes if "status" in write]
    created = [write for write in writes if write.startswith("create") and "events" not in write]
    assert created == ["create pods 201", "create jobs 201", "create pods 201"]
    assert len(status_writes) == 5  # one for each phase
    assert not [write for write in writes if write.endswith((" 409", " 403", " 422"))]
    assert operator.metric("finetune_operator_jobs", namespace=WATCHED, phase="Succeeded") == 1


def test_invalid_data_ends_the_job_with_the_stages_own_words(cluster: Namespace) -> None:
    cluster.submit(minimal_job("bad-data"))
    (pod,) = cluster.start("bad-data-prepare")
    cluster.end_pod(pod, code=64, message=words("InvalidData", "train.jsonl:3: no assistant turn"))
    cluster.fail("bad-data-prepare")
    status = cluster.await_phase("bad-data", "Failed")
    assert (status["reason"], status["message"]) == ("InvalidData", "train.jsonl:3: no assistant turn")
    assert not [name for name in cluster.jobs() if name.startswith("bad-data")]
    assert [name for name in cluster.pods() if name.startswith("bad-data")] == ["bad-data-prepare"]
    assert cluster.events("bad-data")[-1] == ("Warning", "InvalidData")


def test_any_character_of_a_last_word_reaches_the_status(cluster: Namespace) -> None:
    cluster.submit(minimal_job("odd-words"))
    (pod,) = cluster.start("odd-words-prepare")
    said = "train.jsonl:1: \U0001f4a5 \u65e5\u672c \x85 \u2028 \ufeff"
    cluster.end_pod(pod, code=64, message=words("InvalidData", said))
    cluster.fail("odd-words-prepare")
    assert cluster.await_phase("odd-words", "Failed")["message"] == said


def begin_training(cluster: Namespace, name: str, **spec: Any) -> list[dict[str, Any]]:
    """Submit a job and bring it to Running; return the pods of attempt 1."""
    cluster.submit(minimal_job(name, **TWO_NODES, **spec))
    cluster.succeed(f"{name}-prepare", message=words("Succeeded"))
    pods = cluster.start(f"{name}-a1")
    cluster.await_phase(name, "Running")
    return pods


def test_a_crash_is_retried_counted_and_later(cluster: Namespace) -> None:
    first, second = begin_training(cluster, "crash")
    cluster.end_pod(first, code=1, message=words("Crashed", "RuntimeError: boom"))
    cluster.end_pod(second, code=143)
    cluster.fail("crash-a1")
    status = cluster.await_phase("crash", "Restarting")
    assert status["restarts"]["counted"] == 1
    assert "boom" in status["message"]
    assert "crash-a2" not in cluster.jobs()
    cluster.succeed("crash-a2", message=words("Succeeded"))
    cluster.succeed("crash-export", message=words("Succeeded"))
    status = cluster.await_phase("crash", "Succeeded")
    assert (status["attempt"], status["restarts"]["total"]) == (2, 1)


def test_too_many_crashes_end_the_job(cluster: Namespace) -> None:
    first, second = begin_training(cluster, "crashes", backoffLimit=0)
    cluster.end_pod(first, code=1)
    cluster.end_pod(second, code=1)
    cluster.fail("crashes-a1")
    status = cluster.await_phase("crashes", "Failed")
    assert status["reason"] == "BackoffLimitExceeded"
    assert "spec.backoffLimit" in status["message"]
    assert "crashes-a2" not in cluster.jobs()


def test_a_disruption_restarts_free(cluster: Namespace) -> None:
    first, second = begin_training(cluster, "disrupted", backoffLimit=0)
    target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    cluster.end_pod(first, code=137, conditions=[target])
    cluster.end_pod(second, code=143)
    cluster.fail("disrupted-a1", message="Pod lives/disrupted-a1-0 has condition DisruptionTarget")
    cluster.start("disrupted-a2")
    status = cluster.await_phase("disrupted", "Running")
    assert (status["attempt"], status["restarts"]["total"], status["restarts"]["counted"]) == (2, 1, 0)


def test_an_image_that_cannot_be_pulled_ends_at_the_deadline_and_leaves_nothing(cluster: Namespace) -> None:
    cluster.submit(minimal_job("no-image", preRunningDeadlineSeconds=4))
    (pod,) = cluster.start("no-image-prepare", run=False)
    cluster.wait_pod(pod, reason="ImagePullBackOff", message='Back-off pulling image "registry.example/trainer:test"')
    waiting = cluster.await_status("no-image", lambda status: status.get("reason") == "ImagePullFailed")
    assert waiting["phase"] == "Preparing"
    status = cluster.await_phase("no-image", "Failed")
    assert "ImagePull" in status["reason"] or "Deadline" in status["reason"]
    assert "registry.example/trainer:test" in status["message"]
    cluster.await_status(
        "no-image", lambda _: cluster.pods()["no-image-prepare"]["metadata"].get("deletionTimestamp")
    )


def test_a_deleted_job_stays_deleted(cluster: Namespace, operator: OperatorProcess) -> None:
    begin_training(cluster, "deleted")
    before = operator.metric("finetune_operator_jobs", namespace=WATCHED)
    cluster.delete_tune("deleted")
    cluster.await_gone(lambda: operator.metric("finetune_operator_jobs", namespace=WATCHED) != before - 1)
    assert not [name for name in cluster.jobs() if name.startswith("deleted")]


def test_a_job_made_anew_under_the_same_name_begins_anew(cluster: Namespace) -> None:
    begin_training(cluster, "again")
    cluster.delete_tune("again")
    cluster.submit(minimal_job("again", **TWO_NODES))
    cluster.await_pod("again-prepare")
    status = cluster.await_phase("again", "Preparing")
    assert status.get("attempt", 0) == 0


def test_a_job_of_somebody_else_is_left_alone_and_named(cluster: Namespace) -> None:
    jobs = f"/apis/batch/v1/namespaces/{WATCHED}/jobs"
    pod = {"restartPolicy": "Never", "containers": [{"name": "theirs", "image": "registry.example/theirs"}]}
    theirs = {"metadata": {"name": "taken-a1"}, "spec": {"suspend": True, "template": {"spec": pod}}}
    cluster.api.request("POST", jobs, body=theirs)
    cluster.submit(minimal_job("taken", **TWO_NODES))
    cluster.succeed("taken-prepare", message=words("Succeeded"))
    status = cluster.await_status("taken", lambda status: status.get("reason") == "CreationRefused")
    assert "Job taken-a1 exists and does not belong to this FineTuneJob" in status["message"]
    kept = cluster.api.request("GET", f"{jobs}/taken-a1")
    assert "ownerReferences" not in kept["metadata"]
    assert kept["spec"]["template"]["spec"]["containers"][0]["name"] == "theirs"


def test_a_used_up_quota_is_shown_in_the_api_servers_words_and_waited_for(cluster: Namespace) -> None:
    quotas = f"/api/v1/namespaces/{WATCHED}/resourcequotas"
    hard = {"pods": "0"}
    cluster.api.request("POST", quotas, body={"metadata": {"name": "none"}, "spec": {"hard": hard}})
    used = {"status": {"hard": hard, "used": {"pods": "0"}}}
    cluster.api.request("PATCH", f"{quotas}/none/status", body=used, content_type=MERGE)
    cluster.submit(minimal_job("poor"))
    status = cluster.await_status("poor", lambda status: status.get("reason") == "QuotaExceeded")
    assert "exceeded quota: none" in status["message"]
    cluster.api.request("DELETE", f"{quotas}/none")
    cluster.await_pod("poor-prepare", seconds=60)
    cluster.await_status("poor", lambda status: status.get("reason") == "Preparing")


def test_nothing_of_all_this_was_a_bug_and_nothing_drifted(operator: OperatorProcess) -> None:
    assert operator.metric("finetune_operator_reconcile_failures_total", cause="bug") == 0
    assert operator.metric("finetune_operator_api_calls_total", code="403") <= 60  # the quota's refusals alone
    assert "Traceback" not in operator.log_text()
    assert operator.probe("/healthz") == 200
