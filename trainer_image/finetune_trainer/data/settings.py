"""The settings of a run: what the spec said when it was prepared, every default spelled out.

A run may outlive the release that began it. Were the spec read anew by each attempt, a default that a release changes
would change a run in the middle, and a field that it adds would make the checkpoints look like another run's. So the
prepare stage writes the settings and their digest into the run's manifest, and the later stages take both from there:
fields that were not known then have their defaults, which mean what was done before there was a field.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Prepared
from finetune_api.spec import FineTuneJobSpec, Method, Model, Training
from finetune_api.spec.training import LAYOUT
from finetune_api.stage import StageInput
from finetune_api.status import Plan
from finetune_trainer import log
from finetune_trainer.errors import StageFailure

Settings = dict[str, Any]


def settings_of(spec: FineTuneJobSpec) -> Settings:
    """Return all that a checkpoint depends on; what else a spec holds may change between attempts."""
    return {
        "model": spec.model.to_wire(),
        "objective": spec.objective,
        "method": spec.method.spelled_out().to_wire(),
        "training": spec.training.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(LAYOUT)),
        "data": {"packing": spec.data.packing, "maxLength": spec.data.max_length},
    }


def config_digest(settings: Settings, plan: Plan, data_digest: str) -> str:
    """Return the digest that tells the checkpoints of a run from those of another configuration."""
    parts = {"settings": settings, "plan": plan.to_wire(), "data": data_digest}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settle(job: StageInput, prepared: Prepared) -> StageInput:
    """Return the job with the settings that its run was prepared with."""
    recorded = prepared.settings
    if differing := list(_differing(recorded, settings_of(job.spec))):
        log.warning("spec-differs-from-run", fields=differing, taken="the values that the run was prepared with")
    try:
        changes = {
            "model": Model.model_validate(recorded["model"]),
            "objective": recorded["objective"],
            "method": Method.model_validate(recorded["method"]),
            "training": _training(job.spec, recorded),
            "data": job.spec.data.model_copy(
                update={"packing": recorded["data"]["packing"], "max_length": recorded["data"]["maxLength"]}
            ),
        }
    except (ValidationError, KeyError) as error:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"this run was prepared by a release whose settings this one cannot read ({error}); go back to that"
            " release, or create the job anew",
        ) from error
    return job.model_copy(update={"spec": job.spec.model_copy(update=changes)})


def _training(spec: FineTuneJobSpec, recorded: Settings) -> Training:
    """Return the recorded settings, with how a step is computed as the spec has it now."""
    layout = {name: getattr(spec.training, name) for name in LAYOUT}
    return Training.model_validate(recorded["training"]).model_copy(update=layout)


def _differing(recorded: Settings, current: Settings, path: str = "spec") -> Iterator[str]:
    """Yield the recorded fields that have another value now."""
    for name, value in recorded.items():
        now, place = current.get(name), f"{path}.{name}"
        if isinstance(value, dict) and isinstance(now, dict):
            yield from _differing(value, now, place)
        elif value != now:
            yield place
