"""`results/train.json`: the record that says training is done, and the last word that follows from it."""

from pathlib import PurePosixPath

from finetune_api.reasons import Reason
from finetune_api.run import RunLayout, TrainResult
from finetune_api.stage import TerminationMessage
from finetune_trainer.storage import Store


def read_result(store: Store, layout: RunLayout) -> TrainResult | None:
    """Return the result of the run, if training is done."""
    if not store.exists(layout.train_result):
        return None
    return TrainResult.model_validate_json(store.read(layout.train_result))


def publish(store: Store, layout: RunLayout, result: TrainResult) -> TrainResult:
    """Put the result and return the one that stands: another attempt's, if that was first."""
    text = result.model_dump_json(by_alias=True, exclude_none=True).encode()
    if store.put_new(layout.train_result, text, writer=result.writer):
        return result
    return read_result(store, layout) or result


def last_word(result: TrainResult) -> TerminationMessage:
    """Return what the stage says at its end."""
    exported = int(PurePosixPath(result.export_commit).stem)
    return TerminationMessage(
        reason=Reason.SUCCEEDED,
        message=f"trained {result.progress.step} steps; the weights of step {exported} are exported",
        plan=result.plan,
        progress=result.progress,
        last_checkpoint=result.last_checkpoint,
        best_checkpoint=result.best_checkpoint,
        evaluation=result.evaluation,
    )
