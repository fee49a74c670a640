"""Policy: which fields make a run, and when a changed spec begins another one.

A run is one set of checkpoints that continue one another. While a job is suspended its spec may be edited; if a field
changed that the steps done so far depend on, going on from them would be neither the old run nor the new one, so the
job prepares anew and writes below another name. Everything else (resources, limits, evaluation, how many processes
share a step and how each computes it) applies to the next attempt of the same run.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_api.reasons import ConditionType
from finetune_api.spec import FineTuneJobSpec
from finetune_api.spec.training import LAYOUT
from finetune_operator.reconcile.scene import Scene

LAYOUT_FIELDS = frozenset(to_camel(name) for name in LAYOUT)
LASTING = frozenset({ConditionType.VALID, ConditionType.SUSPENDED})
"""Conditions that speak of the job and not of its run."""
DEFINING = ("data", "method", "model", "objective", "training")


def run_digest(spec: FineTuneJobSpec, stored: Mapping[str, Any]) -> str:
    """Return two SHA-256, of the fields that define the run as they are stored and as they differ from the defaults.

    A release may add a field, which the API server then fills in, or change a default, which stored objects keep.
    Either leaves one of the two as it was; only an edit changes both.
    """
    # Processes whose optimizer's state cannot be divided anew have to stay as they are.
    fields = set(DEFINING) if spec.training.optimizer.can_reshard else {*DEFINING, "distributed"}
    defining = {name: value for name, value in stored.items() if name in fields}
    training = {name: value for name, value in stored.get("training", {}).items() if name not in LAYOUT_FIELDS}
    as_stored = json.dumps({**defining, "training": training}, sort_keys=True)
    excluded = {"training": set(LAYOUT)}
    as_chosen = spec.model_dump_json(by_alias=True, include=fields, exclude=excluded, exclude_defaults=True)
    digests = (hashlib.sha256(f"{text} {spec.checkpoint.uri}".encode()) for text in (as_stored, as_chosen))
    return " ".join(digest.hexdigest() for digest in digests)


def identify(scene: Scene) -> dict[str, Any]:
    """Return the changes of the status that name the first run of a job, when it begins."""
    if scene.status.run_id or scene.spec.suspend:
        return {}
    return {"run_id": scene.observed.job.uid, "run_digest": _digest(scene)}


def is_another_run(scene: Scene) -> bool:
    """Whether the spec defines another run than the one that was begun."""
    known = scene.status.run_digest
    return known is not None and not set(known.split()) & set(_digest(scene).split())


def begin_anew(scene: Scene) -> dict[str, Any]:
    """Return the changes of the status that begin another run: nothing of the old one is told any more."""
    job, before = scene.observed.job, scene.status.restarts
    forgotten = ("plan", "data", "progress", "last_checkpoint", "best_checkpoint", "evaluation", "output")
    lasting = [one for one in scene.status.conditions if one.type in LASTING]
    return {
        **dict.fromkeys(forgotten),
        "conditions": lasting,
        "run_id": f"{job.uid}-{job.generation}",
        "run_digest": _digest(scene),
        "restarts": before.model_copy(update={"prepare": before.prepare + 1, "out_of_memory": 0}),
    }


def _digest(scene: Scene) -> str:
    return run_digest(scene.spec, scene.observed.job.spec)
