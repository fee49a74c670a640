"""`spec.evaluation`: when and on what the model is scored."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule

Prompt = Annotated[str, Field(min_length=1, max_length=8192)]


class Predictions(Record):
    """Answers of the base and the tuned model to test rows, written beside the model."""

    rows: int = Field(default=0, ge=0, le=10000, description="Test rows to answer; 0 turns it off.")
    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="Longest answer in tokens.")


BestMetric = Literal["loss", "accuracy", "f1"]


class EarlyStopping(Record):
    """When training ends before its last step."""

    patience: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Training ends after so many evaluations in a row without a gain; the best is exported.",
    )
    min_delta: float = Field(
        default=0.0, ge=0, le=100, description="What bestMetric must gain by to count as a gain: a loss by falling."
    )


class Evaluation(Record):
    """When and on what the model is scored."""

    rules: ClassVar = (
        Rule(
            "!has(self.earlyStopping) || self.everySteps > 0",
            "spec.evaluation.earlyStopping needs evaluations to look at; set spec.evaluation.everySteps",
        ),
    )

    every_steps: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Evaluate on the validation rows every so many steps, and at the end; 0 only at the end.",
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="End training once bestMetric gains no more; left out means never."
    )
    best_metric: BestMetric = Field(
        default="loss",
        description="What tells the best checkpoint, on the validation rows: the lowest loss, or for objective"
        " classification the highest accuracy or f1 (macro). The best one is kept and exported.",
    )
    baseline: bool = Field(default=True, description="Also score the base model on the test rows, before training.")
    sample_prompts: list[Prompt] = Field(
        default=[],
        max_length=16,
        description="Prompts that the model answers after each evaluation, greedily and in up to"
        " predictions.maxNewTokens tokens; the answers are logged and kept in S3, never in the status.",
    )
    predictions: Predictions = Field(
        default=Predictions(), description="Answers of base and tuned model to test rows (predictions.jsonl)."
    )
