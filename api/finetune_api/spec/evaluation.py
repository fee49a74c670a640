"""`spec.evaluation`: when and on what the model is scored."""

from pydantic import Field

from finetune_api.base import Record


class Predictions(Record):
    """Answers of the base and the tuned model to test rows, written beside the model."""

    rows: int = Field(default=0, ge=0, le=10000, description="Test rows to answer; 0 turns it off.")
    max_new_tokens: int = Field(default=128, ge=1, le=8192, description="Longest answer in tokens.")


class Evaluation(Record):
    """When and on what the model is scored."""

    every_steps: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        description="Evaluate on the validation rows every so many steps, and at the end; 0 only at the end.",
    )
    baseline: bool = Field(default=True, description="Also score the base model on the test rows, before training.")
    predictions: Predictions = Field(
        default=Predictions(), description="Answers of base and tuned model to test rows (predictions.jsonl)."
    )
