"""A run keeps its settings and its digest, whatever a later release adds or has for a default."""

import json

import pytest
from pydantic import Field

from finetune_api.exitcodes import ExitCode
from finetune_api.run import Prepared
from finetune_api.spec import FineTuneJobSpec, Lora, Training
from finetune_api.stage import StageInput
from finetune_api.status import Plan
from finetune_trainer.data import settings as module
from finetune_trainer.data.settings import config_digest, settings_of, settle
from finetune_trainer.errors import StageFailure

SPEC = {
    "model": {"uri": "s3://models/m/"},
    "data": {"train": [{"uri": "s3://data/rows.jsonl"}]},
    "training": {"epochs": 1},
    "checkpoint": {"uri": "s3://runs/c/"},
    "output": {"uri": "s3://runs/o/"},
}
PLAN = {
    "zeroStage": 0,
    "worldSize": 1,
    "microBatchSize": 1,
    "gradientAccumulationSteps": 1,
    "activationCheckpointing": False,
    "attention": "sdpa",
    "precision": "bf16",
    "totalSteps": 10,
    "totalParameters": 100,
    "trainableParameters": 10,
    "estimatedBytesPerDevice": 1,
}


def job_of(**changes):
    spec = {**SPEC, **{name: {**SPEC.get(name, {}), **block} for name, block in changes.items()}}
    return StageInput.model_validate({"name": "j", "namespace": "n", "uid": "u", "spec": spec})


def prepare(job):
    """Return the manifest of a run as it stands in S3."""
    plan = Plan.model_validate(PLAN)
    settings = settings_of(job.spec)
    split = {}
    wire = {
        "writer": "pod",
        "files": [],
        "modelFiles": [],
        "data": {"format": "messages", "train": split, "validation": split, "test": split, "digest": "d"},
        "plan": PLAN,
        "settings": settings,
        "configDigest": config_digest(settings, plan, "d"),
    }
    return Prepared.model_validate_json(Prepared.model_validate(wire).model_dump_json(by_alias=True))


@pytest.mark.parametrize(
    "job",
    [
        job_of(),
        job_of(method={"type": "full"}, training={"epochs": 0.3, "learningRate": 1e-5, "warmup": 10}),
        job_of(method={"type": "lora", "lora": {"rank": 8, "targetModules": ["q_proj"]}}, data={"packing": False}),
        job_of(training={"epochs": None, "maxSteps": 7, "optimizer": {"betas": [0.8, 0.95]}}),
    ],
)
def test_an_unchanged_spec_is_settled_as_it_is(job, capsys):
    settled = settle(job, prepare(job)).spec
    lora = settled.method.lora
    assert settled.model_copy(update={"method": job.spec.method}) == job.spec
    assert lora == ((job.spec.method.lora or Lora()) if job.spec.method.type == "lora" else None)
    assert capsys.readouterr().out == ""


def test_what_does_not_define_the_run_is_taken_from_the_spec(capsys):
    prepared = prepare(job_of())
    changed = job_of(
        checkpoint={"everySteps": 7},
        evaluation={"everySteps": 3},
        output={"merge": True},
        training={"microBatchSize": 3, "activationCheckpointing": "on"},
    )
    settled = settle(changed, prepared).spec
    assert (settled.checkpoint.every_steps, settled.evaluation.every_steps) == (7, 3)
    assert (settled.training.micro_batch_size, settled.training.activation_checkpointing) == (3, "on")
    assert capsys.readouterr().out == ""


class LaterTraining(Training):
    """Training as a later release has it: with one field more and another default."""

    learning_rate: float = Field(default=1e-5)
    noise: float = Field(default=0.5)


class LaterLora(Lora):
    rank: int = Field(default=64)


class LaterSpec(FineTuneJobSpec):
    training: LaterTraining


@pytest.fixture
def prepared():
    """Return the manifest of a run that this release prepared."""
    return prepare(job_of())


@pytest.fixture
def later_release(prepared, monkeypatch):
    """Let the stages run with the spec of a later release, from now on."""
    monkeypatch.setattr(module, "Training", LaterTraining)
    monkeypatch.setattr("finetune_api.spec.method.Lora", LaterLora)
    return job_of().model_copy(update={"spec": LaterSpec.model_validate(SPEC)})


def test_a_release_that_adds_a_field_or_changes_a_default_leaves_a_run_as_it_was(prepared, later_release, capsys):
    settled = settle(later_release, prepared).spec
    assert settled.training.learning_rate == 2e-4
    assert settled.method.lora.rank == 16
    assert settled.training.noise == 0.5
    # Every attempt takes the digest from the manifest; one made of the spec of now is another.
    assert config_digest(settings_of(later_release.spec), Plan.model_validate(PLAN), "d") != prepared.config_digest
    told = json.loads(capsys.readouterr().out)
    assert told["event"] == "spec-differs-from-run"
    assert told["fields"] == ["spec.method.lora.rank", "spec.training.learningRate"]


def test_settings_of_an_unknown_release_are_told(later_release):
    prepared = prepare(later_release)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Training", Training)
        with pytest.raises(StageFailure, match="prepared by a release whose settings this one cannot read") as caught:
            settle(job_of(), prepared)
    assert caught.value.code is ExitCode.INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"chatTemplate": "x"}},
        {"method": {"type": "full"}},
        {"method": {"lora": {"rank": 8}}},
        {"training": {"seed": 1}},
        {"data": {"packing": False}},
        {"data": {"maxLength": 64}},
    ],
)
def test_what_a_checkpoint_depends_on_changes_the_digest(change):
    assert prepare(job_of(**change)).config_digest != prepare(job_of()).config_digest


def test_defaults_written_out_are_the_same_run():
    spelled = job_of(method={"type": "lora", "lora": {"rank": 16}}, training={"seed": 42})
    assert prepare(spelled).config_digest == prepare(job_of()).config_digest
