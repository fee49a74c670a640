"""Whether there are validation rows for what `spec.evaluation` asks of them."""

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Data, FineTuneJobSpec
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.data_warnings import DataWarning
from finetune_trainer.prepare.split import shares_of


def require_validation_rows(spec: FineTuneJobSpec, rows: int) -> None:
    """Raise StageFailure when `rows` is 0 and scores are to end the training."""
    if not rows and spec.evaluation.early_stopping is not None:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"spec.evaluation.earlyStopping needs validation rows, and {_cause(spec.data)}; name other files in"
            " spec.data.validation, raise spec.data.split.validation, or remove earlyStopping",
        )


def no_validation_rows(spec: FineTuneJobSpec, rows: int) -> DataWarning | None:
    """Return the warning of the fields that have no effect when `rows` is 0; None: all have theirs.

    A loss is the metric of all who say nothing, so it is not told that it chooses nothing.
    """
    asked = {"earlyStopping": spec.evaluation.early_stopping, "bestMetric": spec.evaluation.best_metric != "loss"}
    fields = [f"spec.evaluation.{name}" for name, is_asked in asked.items() if is_asked]
    if rows or not fields:
        return None
    return DataWarning(
        "no-validation-rows",
        f"there are no validation rows for {' and '.join(fields)}: training goes to its last step, whose weights are"
        " exported; name files in spec.data.validation, or raise spec.data.split.validation",
        {"fields": fields},
    )


def _cause(data: Data) -> str:
    if data.validation:
        return "spec.data.validation holds none that is kept"
    return f"spec.data.split.validation {shares_of(data).validation} yields none"
