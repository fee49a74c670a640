"""Objects as the API server sends them, for tests: builders with defaults."""

from typing import Any

from finetune_api import API_VERSION, KIND

Object = dict[str, Any]
CREATED = "2026-01-01T00:00:00Z"


def labels(owner: str, stage: str, attempt: int) -> dict[str, str]:
    """Return the labels of a stage's Job and pods."""
    return {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune-operator.io/job": owner,
        "finetune-operator.io/stage": stage,
        "finetune-operator.io/attempt": str(attempt),
    }


def raw_job(
    name: str = "tune", *, uid: str = "u1", version: int = 1, created: str = CREATED, **status: Any
) -> Object:
    """Return a FineTuneJob with that status."""
    meta = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {**meta, "creationTimestamp": created},
        "spec": {},
        "status": status,
    }


def raw_child_job(
    owner: str = "tune",
    *,
    stage: str = "train",
    attempt: int = 1,
    uid: str = "j1",
    owner_uid: str = "u1",
    version: int = 1,
    conditions: tuple[Object, ...] = (),
    **status: Any,
) -> Object:
    """Return a batch/v1 Job below a FineTuneJob."""
    name = f"{owner}-a{attempt}" if stage == "train" else f"{owner}-{stage}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": CREATED,
            "labels": labels(owner, stage, attempt),
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": KIND, "name": owner, "uid": owner_uid, "controller": True}
            ],
        },
        "status": {"conditions": list(conditions), **status},
    }


def raw_pod(
    job: Object,
    *,
    index: int = 0,
    uid: str = "p1",
    version: int = 1,
    created: str = CREATED,
    phase: str = "Running",
    **status: Any,
) -> Object:
    """Return a pod of a batch/v1 Job."""
    meta = job["metadata"]
    more = {"batch.kubernetes.io/job-name": meta["name"], "batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "ns",
            "name": f"{meta['name']}-{index}-abcde",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": created,
            "labels": {**meta["labels"], **more},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": phase, **status},
    }
