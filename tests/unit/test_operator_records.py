"""Slim records from the API server's JSON."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.stage import Stage
from finetune_loopback.kube_objects import raw_child_job, raw_job, raw_pod
from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD
from finetune_operator.model import ChildJob, ChildPod, JobCondition, Terminated
from finetune_operator.records import RawJob, entry_of, is_finished


def pod_record(**status: Any) -> ChildPod:
    entry = entry_of(POD, raw_pod(raw_child_job(attempt=3), index=2, **status))
    assert entry is not None
    assert isinstance(entry.record, ChildPod)
    return entry.record


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "sidecar", "state": {"running": {}}}, {"name": "trainer", "state": state}]


def test_a_child_job_keeps_counts_conditions_and_times() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit 64", "more": 1}
    raw = raw_child_job(attempt=2, conditions=(failed,), failed=1, active=3, startTime="2026-01-01T00:00:09Z")
    entry = entry_of(JOB, raw)
    assert entry is not None
    assert entry.owner_uid == "u1"
    assert entry.record == ChildJob(
        name="tune-a2",
        uid="j1",
        stage=Stage.TRAIN,
        attempt=2,
        active=3,
        failed=1,
        conditions=(JobCondition(type="Failed", status="True", reason="PodFailurePolicy", message="exit 64"),),
        start_time=datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC),
    )


def test_a_pod_keeps_where_it_is_and_what_it_waits_for() -> None:
    conditions = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"},
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
    ]
    record = pod_record(
        phase="Pending",
        conditions=conditions,
        containerStatuses=container(waiting={"reason": "ImagePullBackOff", "message": "no such image"}),
        reason="Evicted",
        message="node was low on memory",
    )
    assert (record.stage, record.attempt, record.index, record.job) == (Stage.TRAIN, 3, 2, "tune-a3")
    assert (record.unschedulable, record.disruption) == ("0/2 nodes", "EvictionByEvictionAPI")
    assert (record.waiting_reason, record.waiting_message) == ("ImagePullBackOff", "no such image")
    assert (record.reason, record.message, record.node) == ("Evicted", "node was low on memory", "node-1")


def test_only_the_trainers_container_tells_how_a_pod_ended() -> None:
    state = {"exitCode": 137, "reason": "OOMKilled", "message": "{}", "finishedAt": "2026-01-01T00:01:00Z"}
    assert pod_record(phase="Failed", containerStatuses=container(terminated=state)).terminated == Terminated(
        exit_code=137, reason="OOMKilled", message="{}", finished_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    )
    assert pod_record(containerStatuses=container(running={"startedAt": "2026-01-01T00:00:00Z"})).terminated is None


@pytest.mark.parametrize(
    "strip",
    [
        lambda raw: raw.pop("status"),
        lambda raw: raw.update(status=None),
        lambda raw: raw["status"].clear(),
        lambda raw: raw["metadata"].pop("creationTimestamp"),
        lambda raw: raw["metadata"].pop("ownerReferences"),
        lambda raw: raw["metadata"]["labels"].pop("finetune-operator.io/attempt"),
        lambda raw: raw["metadata"]["labels"].update({"finetune-operator.io/attempt": "x"}),
    ],
)
def test_missing_parts_never_raise_since_a_handler_may_not_fail(strip: Any) -> None:
    job = raw_child_job()
    for kind, raw in ((JOB, raw_child_job()), (POD, raw_pod(job))):
        strip(raw)
        assert entry_of(kind, raw) is not None


def test_spec_and_status_are_kept_as_they_are() -> None:
    spec = {"model": {"uri": "s3://m/"}, "training": {"learningRate": 0.0002}, "ttlSecondsAfterFinished": 0}
    entry = entry_of(FINE_TUNE_JOB, {**raw_job(phase="Failed", message="caf\u00e9 \ud83d"), "spec": spec})
    assert entry is not None
    assert isinstance(entry.record, RawJob)
    assert (entry.record.spec, entry.record.status) == (spec, {"phase": "Failed", "message": "caf\u00e9 \ud83d"})
    assert (entry.record.expires, entry.record.is_terminal) == (True, True)


def test_a_new_job_without_status_is_pending() -> None:
    raw = raw_job()
    del raw["status"]
    entry = entry_of(FINE_TUNE_JOB, raw)
    assert entry is not None
    assert isinstance(entry.record, RawJob)
    assert (entry.record.phase, entry.record.is_terminal, entry.record.deleting) == ("Pending", False, False)


@pytest.mark.parametrize(
    ("condition", "finished"),
    [(None, False), ("Complete", True), ("Failed", True), ("FailureTarget", False), ("Suspended", False)],
)
def test_a_job_is_finished_when_kubernetes_has_ended_it(condition: str | None, finished: bool) -> None:
    conditions = ({"type": condition, "status": "True"},) if condition else ()
    entry = entry_of(JOB, raw_child_job(conditions=conditions))
    assert entry is not None
    assert is_finished(entry.record) is finished
