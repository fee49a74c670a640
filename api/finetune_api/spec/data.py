"""`spec.data`: rows to train, validate and test on."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.uris import S3Uri


class DataSource(Record):
    """One source of rows."""

    uri: S3Uri = Field(
        description="One file, or a prefix (ending in /) whose .jsonl, .csv and .parquet files are all read."
    )


class Split(Record):
    """Shares split off the training rows, by a hash of the row: a row never moves when others are added."""

    validation: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="Share of rows for validation; used when data.validation is empty.",
    )
    test: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of rows for test; used when data.test is empty."
    )
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of the hash.")


Label = Annotated[str, Field(min_length=1, max_length=64)]
PiiKind = Literal["email", "iban", "cardNumber", "fiscalCode", "vatNumber", "ipAddress", "phone"]


class Pii(Record):
    """Personal data in the rows: found by form and check digits, before anything is trained on."""

    action: Literal["none", "report", "mask", "drop"] = Field(
        default="none",
        description="report counts it in status.data; mask puts placeholders like <EMAIL_1> in its place; drop leaves"
        " out the rows that hold any.",
    )
    kinds: list[PiiKind] = Field(
        default=["email", "iban", "cardNumber", "fiscalCode", "vatNumber", "ipAddress", "phone"],
        min_length=1,
        max_length=7,
        description="What is looked for. fiscalCode and a vatNumber without its country are Italian.",
    )
    region: str = Field(
        default="",
        pattern=r"^([A-Z]{2})?$",
        max_length=2,
        description="Country of phone numbers that are written without one, e.g. IT; empty: such are not found.",
    )


class Data(Record):
    """Rows to train, validate and test on."""

    rules: ClassVar = (
        Rule(
            "!has(self.validation) || size(self.validation) == 0 || !has(self.split) || self.split.validation == 0.0",
            "spec.data.validation and spec.data.split.validation exclude each other; set split.validation: 0"
            " or remove the validation list",
        ),
        Rule(
            "!has(self.test) || size(self.test) == 0 || !has(self.split) || self.split.test == 0.0",
            "spec.data.test and spec.data.split.test exclude each other; set split.test: 0 or remove the test list",
        ),
        Rule(
            "!has(self.labels) || size(self.labels) != 1",
            "spec.data.labels names one label, and a single class leaves nothing to tell apart; add the others, or"
            " remove the list to read them from the rows",
        ),
    )

    format: Literal["auto", "messages", "promptCompletion", "text", "label"] = Field(
        default="auto",
        description="messages: a list of role/content turns; promptCompletion: columns prompt and completion; text: a"
        " column text, for objective pretrain; label: columns text (or messages) and label, for objective"
        " classification; auto: told from the objective and the first row.",
    )
    labels: list[Label] = Field(
        default=[],
        max_length=1000,
        description="Labels that the model tells apart (objective classification), by class id; empty: those of the"
        " training rows, sorted.",
    )
    train: list[DataSource] = Field(min_length=1, max_length=64, description="Sources of training rows.")
    validation: list[DataSource] = Field(default=[], max_length=64, description="Sources of validation rows.")
    test: list[DataSource] = Field(default=[], max_length=64, description="Sources of test rows.")
    split: Split | None = Field(
        default=None,
        description="Shares split off the training rows for the lists left empty; left out means 0.1 and 0.1.",
    )
    max_length: int = Field(
        default=2048,
        ge=16,
        le=1048576,
        description="Longest row in tokens; longer rows are dropped and counted, but those of format text are cut.",
    )
    pii: Pii = Field(default=Pii(), description="What is done about personal data in the rows.")
    packing: bool = Field(
        default=True,
        description="Put several rows into one sequence of maxLength tokens; rows never see one another.",
    )
