"""What is asked of validation rows that are not there."""

import pytest

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.jobs import minimal_job
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.validation_rows import no_validation_rows, require_validation_rows

STOPS = {"earlyStopping": {"patience": 2}}
BY_F1 = {"bestMetric": "f1"}


def spec(**evaluation):
    return FineTuneJobSpec.model_validate(minimal_job(evaluation=evaluation)["spec"])


def test_early_stopping_needs_one_row():
    require_validation_rows(spec(**STOPS), 1)
    require_validation_rows(spec(**BY_F1), 0)
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
def test_the_warning_names_the_fields_without_effect(evaluation, rows, fields):
    found = no_validation_rows(spec(**evaluation), rows)
    if not fields:
        assert found is None
        return
    assert (found.event, found.fields) == ("no-validation-rows", {"fields": fields})
    assert f"no validation rows for {' and '.join(fields)}: " in found.sentence
