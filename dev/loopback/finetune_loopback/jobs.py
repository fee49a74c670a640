"""FineTuneJob objects for tests: the least that is valid, and changes to it."""

from typing import Any

from finetune_api import API_VERSION, KIND

Object = dict[str, Any]


def minimal_job(name: str = "job", **changes: Any) -> Object:
    """Return the smallest valid FineTuneJob, with `changes` merged into its spec (None removes a field)."""
    spec: Object = {
        "model": {"uri": "s3://models/base/"},
        "data": {"train": [{"uri": "s3://datasets/train.jsonl"}]},
        "training": {"epochs": 1},
        "checkpoint": {"uri": "s3://runs/job/"},
        "output": {"uri": "s3://models/job/"},
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": merge(spec, changes)}


def merge(base: Any, changes: Any) -> Any:
    """Return `base` with `changes` merged in as by a JSON merge patch (RFC 7386)."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    merged = {key: merge(base.get(key), value) for key, value in changes.items() if value is not None}
    return {key: value for key, value in base.items() if key not in changes} | merged
