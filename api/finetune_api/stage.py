"""What passes between the operator and the pods of a stage.

Into the pod: one environment variable, `FINETUNE_JOB` (`StageInput` as JSON: the spec as it was when the stage
began, so that a later edit cannot change a run, and no ConfigMap has to be written), the mounted files below, and
the variables of the progress endpoint. Out of the pod: progress samples while it runs, and the termination
message as the last word, so that nothing depends on the network or on the operator being up.
"""

from enum import StrEnum
from pathlib import PurePosixPath

from pydantic import Field

from finetune_api.base import Record
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import CheckpointRef, DataReport, EvaluationResult, OutputResult, Plan, Progress

JOB_VARIABLE = "FINETUNE_JOB"
PROGRESS_URL_VARIABLE = "FINETUNE_PROGRESS_URL"
PROGRESS_CA_VARIABLE = "FINETUNE_PROGRESS_CA"
"""PEM text of the authority that signed the progress endpoint's certificate: public, so an environment variable."""
POD_UID_VARIABLE = "FINETUNE_POD_UID"
POD_IP_VARIABLE = "FINETUNE_POD_IP"
"""Set where a training has several pods, which must find one another."""
TOKEN_AUDIENCE = "finetune-operator"  # noqa: S105 - the audience of a token, not a token

CREDENTIALS_FILE = PurePosixPath("/var/run/finetune/s3/credentials")
CA_BUNDLE_FILE = PurePosixPath("/var/run/finetune/ca/ca.crt")
MLFLOW_FOLDER = PurePosixPath("/var/run/finetune/mlflow")
"""Username and password, or a token, of the tracking server."""
TOKEN_FILE = PurePosixPath("/var/run/finetune/token/token")
WORK_DIR = PurePosixPath("/var/lib/finetune")
"""The pod's scratch space (spec.storage.cache); everything else of its file system is read-only but /tmp."""
TERMINATION_LOG = PurePosixPath("/dev/termination-log")
TERMINATION_LIMIT = 4096
"""Bytes Kubernetes keeps of a termination message."""
RENDEZVOUS_PORT = 29500
"""Of the pod with index 0, where the processes of all pods meet."""
HANG_SECONDS = 600.0
"""Silence of a training that is never a hang, however short its steps are."""
HANG_STEPS = 20.0
"""Nor is the time of so many median steps."""


class Stage(StrEnum):
    """Stages of a job, in order."""

    PREPARE = "prepare"
    TRAIN = "train"
    EXPORT = "export"


class StageInput(Record):
    """Everything a stage is told about its job."""

    name: str = Field(description="Name of the FineTuneJob.")
    namespace: str = Field(description="Its namespace.")
    uid: str = Field(description="Its uid.")
    run_id: str = Field(
        default_factory=lambda data: data["uid"],
        description="The run's identity in S3: the uid, with a generation once the run began anew.",
    )
    attempt: int = Field(default=0, ge=0, description="Attempt of the training stage; 0 in the other stages.")
    memory_limit_bytes: int | None = Field(default=None, description="Memory limit of a training pod.")
    out_of_memory: int = Field(default=0, ge=0, description="Attempts of the run that ran out of memory.")
    spec: FineTuneJobSpec = Field(description="The spec when the stage began.")


class ProgressSample(Record):
    """What rank 0 posts while it trains; the operator keeps the newest one."""

    attempt: int = Field(ge=1, description="Attempt that speaks.")
    plan: Plan | None = Field(default=None, description="How it computes.")
    progress: Progress = Field(description="Where it is.")
    last_checkpoint: CheckpointRef | None = Field(default=None, description="Newest commit.")
    best_checkpoint: CheckpointRef | None = Field(default=None, description="Best commit by evaluation.bestMetric.")


class TerminationMessage(Record):
    """The last word of a stage: JSON of at most 4096 bytes. A part the stage did not reach is left out."""

    reason: Reason = Field(description="Succeeded, or why it failed.")
    message: str = Field(default="", max_length=1500, description="One or a few sentences: what, where, what to do.")
    plan: Plan | None = Field(default=None, description="prepare, train.")
    data: DataReport | None = Field(default=None, description="prepare.")
    progress: Progress | None = Field(default=None, description="train.")
    last_checkpoint: CheckpointRef | None = Field(default=None, description="train.")
    best_checkpoint: CheckpointRef | None = Field(default=None, description="train.")
    evaluation: EvaluationResult | None = Field(default=None, description="train.")
    output: OutputResult | None = Field(default=None, description="export.")
