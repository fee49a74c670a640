"""What a pod is told: the job in `FINETUNE_JOB`, its own identity, and where its files are mounted.

Outside Kubernetes (a local run, the tests) the paths are moved by `FINETUNE_WORK_DIR`, `FINETUNE_TERMINATION_LOG`
and `FINETUNE_MOUNTS` (the folder that holds s3/credentials, ca/ca.crt, mlflow/ and token/token).
`FINETUNE_HANG_SECONDS` replaces the ten minutes of silence that are never a hang.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import (
    CA_BUNDLE_FILE,
    CREDENTIALS_FILE,
    JOB_VARIABLE,
    MLFLOW_FOLDER,
    POD_IP_VARIABLE,
    POD_UID_VARIABLE,
    PROGRESS_CA_VARIABLE,
    PROGRESS_URL_VARIABLE,
    TERMINATION_LOG,
    TOKEN_FILE,
    WORK_DIR,
    StageInput,
)
from finetune_trainer.errors import StageFailure

WORK_DIR_VARIABLE = "FINETUNE_WORK_DIR"
TERMINATION_LOG_VARIABLE = "FINETUNE_TERMINATION_LOG"
MOUNTS_VARIABLE = "FINETUNE_MOUNTS"
HANG_SECONDS_VARIABLE = "FINETUNE_HANG_SECONDS"
POD_INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
LOOPBACK = "127.0.0.1"
_MOUNTS = CREDENTIALS_FILE.parent.parent


@dataclass(frozen=True)
class Pod:
    """This pod: who it is and where its files are."""

    uid: str
    index: int
    """Its place among the pods of the training stage; 0 in the other stages."""
    address: str
    """Where the other pods of the run reach it; loopback outside of Kubernetes."""
    work_dir: Path
    termination_log: Path
    credentials_file: Path
    ca_bundle_file: Path
    mlflow_folder: Path
    token_file: Path
    progress_url: str
    """Empty: progress is not posted."""
    progress_ca: str
    """PEM text."""
    hang_seconds: float | None
    """Silence of a training process that is never a hang; None: the usual."""

    def writer(self, attempt: int) -> str:
        """Return the name under which this pod writes to S3: `a<attempt>-<8 characters of its uid>`.

        All ranks of one attempt write under the name of the pod with index 0, so that its committer knows where
        to look: rank 0 broadcasts it.
        """
        return f"a{attempt}-{self.uid.replace('-', '')[:8]}"


def read_job(environment: Mapping[str, str] = os.environ) -> StageInput:
    """Return the job. Raises StageFailure when the variable is missing or not valid."""
    text = environment.get(JOB_VARIABLE, "")
    if not text:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"environment variable {JOB_VARIABLE} is not set; the operator sets it, a pod started by hand must too",
        )
    try:
        return StageInput.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"{JOB_VARIABLE}: {where}: {first['msg']}; operator and trainer image must be of the same release",
        ) from error


def read_pod(environment: Mapping[str, str] = os.environ) -> Pod:
    """Return this pod's identity and paths."""
    mounts = Path(environment.get(MOUNTS_VARIABLE, str(_MOUNTS)))
    return Pod(
        uid=environment.get(POD_UID_VARIABLE, "local"),
        index=int(environment.get(POD_INDEX_VARIABLE, "0")),
        address=environment.get(POD_IP_VARIABLE, LOOPBACK),
        work_dir=Path(environment.get(WORK_DIR_VARIABLE, str(WORK_DIR))),
        termination_log=Path(environment.get(TERMINATION_LOG_VARIABLE, str(TERMINATION_LOG))),
        credentials_file=mounts / CREDENTIALS_FILE.relative_to(_MOUNTS),
        ca_bundle_file=mounts / CA_BUNDLE_FILE.relative_to(_MOUNTS),
        mlflow_folder=mounts / MLFLOW_FOLDER.relative_to(_MOUNTS),
        token_file=mounts / TOKEN_FILE.relative_to(_MOUNTS),
        progress_url=environment.get(PROGRESS_URL_VARIABLE, ""),
        progress_ca=environment.get(PROGRESS_CA_VARIABLE, ""),
        hang_seconds=float(environment[HANG_SECONDS_VARIABLE]) if HANG_SECONDS_VARIABLE in environment else None,
    )
