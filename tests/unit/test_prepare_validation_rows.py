"""What is asked of validation rows that are not there."""

import json

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.jobs import minimal_job
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.validation_rows import require_validation_rows, warn_without_validation_rows

STOPS = {"earlyStopping": {"patience": 2}}
BY_F1 = {"bestMetric": "f1"}


def spec(**evaluation):
    return FineTuneJobSpec.model_validate(minimal_job(evaluation=evaluation)["spec"])


def test_early_stopping_needs_one_row():
    require_validation_rows(spec(**STOPS), 1)
    with pytest.raises(StageFailure, match=r"and spec\.data\.split\.validation 0\.1 ") as caught:
        require_validation_rows(spec(**STOPS), 0)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)


@pytest.mark.parametrize(
    ("evaluation", "rows", "fields"),
    [
        ({}, 0, []),
        (BY_F1, 0, ["spec.evaluation.bestMetric"]),
        (STOPS, 0, ["spec.evaluation.earlyStopping"]),
        (STOPS | BY_F1, 0, ["spec.evaluation.earlyStopping", "spec.evaluation.bestMetric"]),
        (STOPS | BY_F1, 1, []),
    ],
)
def test_the_log_names_the_fields_without_effect(evaluation, rows, fields, capsys):
    warn_without_validation_rows(spec(**evaluation), rows)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["fields"] for line in lines] == ([fields] if fields else [])
    assert all((line["event"], line["level"]) == ("no-validation-rows", "warning") for line in lines)


def test_what_the_prepare_stage_does_not_refuse_it_warns_of(capsys):
    require_validation_rows(spec(**BY_F1), 0)
    assert "spec.evaluation.bestMetric" in capsys.readouterr().out
