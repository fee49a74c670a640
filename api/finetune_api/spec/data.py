"""`spec.data`: rows to train, validate and test on."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import Record, Rule
from finetune_api.uris import S3Uri


class DataSource(Record):
    """One source of rows."""

    uri: S3Uri = Field(
        description="One file, or a prefix (ending in /) whose .jsonl, .csv and .parquet files are all read; .jsonl"
        " and .csv may be compressed (.gz, .zst). A .json file holds lines of JSON too, and is read only where this"
        " names it."
    )


class TrainingSource(DataSource):
    """One source of training rows."""

    weight: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="How often an epoch reads each row: 2.5 reads all of them twice and half of them once more, 0.1 a"
        " tenth of them once. Which, is told by a hash of the row.",
    )


class Replay(Record):
    """General rows mixed into the training rows, so that the model forgets less of what it could do before."""

    sources: list[DataSource] = Field(
        min_length=1, max_length=64, description="Sources of the general rows, in the format of the training rows."
    )
    fraction: float = Field(
        default=0.1,
        gt=0,
        le=0.9,
        description="Share of all training rows that they are; as many are taken, told by a hash of the row.",
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
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Seed of every hash.")


Label = Annotated[str, Field(min_length=1, max_length=64)]
ColumnName = Annotated[str, Field(max_length=256)]


class Columns(Record):
    """What the columns are called in the files, where that is not what the format calls them."""

    messages: ColumnName = Field(default="", description="Column of the turns; empty: messages.")
    tools: ColumnName = Field(default="", description="Column of the tools that may be called; empty: tools.")
    prompt: ColumnName = Field(default="", description="Column of the prompt; empty: prompt.")
    completion: ColumnName = Field(default="", description="Column of the completion; empty: completion.")
    text: ColumnName = Field(default="", description="Column of the text; empty: text.")
    label: ColumnName = Field(default="", description="Column of the label; empty: label.")


Deduplicate = Literal["none", "exact", "near"]
LossOn = Literal["assistant", "lastAssistant", "completion", "all"]
Truncation = Literal["drop", "keepAnswer", "end"]
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
        Rule(
            "!has(self.nearThreshold) || self.deduplicate == 'near'",
            "spec.data.nearThreshold says how alike near duplicates are; set deduplicate: near or remove it",
        ),
    )

    format: Literal["auto", "messages", "promptCompletion", "text", "label"] = Field(
        default="auto",
        description="messages: a list of role/content turns; promptCompletion: columns prompt and completion; text: a"
        " column text, for objective pretrain; label: columns text (or messages) and label, for objective"
        " classification; auto: told from the objective and the first row.",
    )
    columns: Columns = Field(
        default=Columns(), description="Names of columns that are called otherwise in the files."
    )
    max_invalid_rows: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="So many rows that are wrong are left out, told in the log and counted; one more fails the job.",
    )
    loss_on: LossOn = Field(
        default="assistant",
        description="Tokens that are learned (objective sft). assistant: every answer, or the completion;"
        " lastAssistant: the last answer; completion: all from the first answer on; all: every token.",
    )
    labels: list[Label] = Field(
        default=[],
        max_length=1000,
        description="Labels that the model tells apart (objective classification), by class id; empty: those of the"
        " training rows, sorted.",
    )
    train: list[TrainingSource] = Field(min_length=1, max_length=64, description="Sources of training rows.")
    validation: list[DataSource] = Field(default=[], max_length=64, description="Sources of validation rows.")
    test: list[DataSource] = Field(default=[], max_length=64, description="Sources of test rows.")
    replay: Replay | None = Field(
        default=None, description="General rows mixed in against forgetting; left out means none."
    )
    deduplicate: Deduplicate = Field(
        default="none",
        description="What becomes of rows that repeat an earlier one. none: they are kept and counted; exact: left"
        " out when they are the same; near: when they are alike, too. A row of test is never trained on or validated"
        " with, nor one of validation trained on.",
    )
    near_threshold: float | None = Field(
        default=None,
        ge=0.5,
        le=1,
        description="Share of two rows' sequences of five words that they must have in common to be near duplicates;"
        " left out means 0.8.",
    )
    split: Split | None = Field(
        default=None,
        description="Shares split off the training rows for the lists left empty; left out means 0.1 and 0.1.",
    )
    max_length: int = Field(
        default=2048,
        ge=16,
        le=1048576,
        description="Longest row in tokens; see truncation for longer ones. Those of format text become several.",
    )
    truncation: Truncation = Field(
        default="drop",
        description="What becomes of longer rows. drop: left out; keepAnswer: the oldest turns, or the beginning of"
        " the prompt, are left out so that the last answer stays whole; end: cut, answers too.",
    )
    pii: Pii = Field(default=Pii(), description="What is done about personal data in the rows.")
    packing: bool = Field(
        default=True,
        description="Put several rows into one sequence of maxLength tokens; rows never see one another.",
    )
