"""What the model card tells of a training: how it ran, not how it was planned."""

from datetime import UTC, datetime

import pytest
from checkpoint_builders import commit
from plans import RESOLVED

from finetune_api.run import Prepared, TrainResult
from finetune_api.stage import StageInput
from finetune_api.status import CheckpointRef, DataReport, EvaluationResult, Plan, Progress, SplitReport
from finetune_loopback.jobs import minimal_job
from finetune_trainer.export.card import render

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def card(*, ran: Plan | None = None, sequences: int = 1000) -> str:
    """Return the card of a job with a global batch of 64; `ran`: the plan of the attempt that finished."""
    spec = minimal_job(training={"globalBatchSize": 64, "epochs": 1})["spec"]
    rows = SplitReport(rows=10, tokens=100, supervised_tokens=10, sequences=sequences)
    prepared = Prepared(
        writer="w",
        files=[],
        model_files=[],
        data=DataReport(format="messages", train=rows, validation=rows, test=rows, digest="0" * 64),
        plan=RESOLVED,
        settings={},
        config_digest="0" * 64,
    )
    last = CheckpointRef(uri="s3://c/7", step=7, time=NOW, size_bytes=1)
    result = TrainResult(
        writer="w",
        export_commit="k",
        plan=ran,
        progress=Progress(step=7, total_steps=7),
        last_checkpoint=last,
        evaluation=EvaluationResult(),
    )
    job = StageInput(name="tiny", namespace="test", uid="u", spec=spec)
    return render(job, prepared=prepared, result=result, commit=commit(step=7), merge_gap=None)


@pytest.mark.parametrize(
    ("ran", "line"),
    [
        (RESOLVED.model_copy(update={"world_size": 8, "zero_stage": 3}), "| processes | 8, ZeRO stage 3 |"),
        (None, "| processes | 2, ZeRO stage 0 |"),  # of a release that told none
    ],
)
def test_the_card_tells_the_plan_that_ran(ran, line):
    assert line in card(ran=ran)


@pytest.mark.parametrize(("sequences", "taken"), [(1000, 64), (64, 64), (5, 5)])
def test_the_card_tells_the_sequences_that_a_step_took(sequences, taken):
    assert f"| global batch | {taken} sequences |" in card(sequences=sequences)
