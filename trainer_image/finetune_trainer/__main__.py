"""`python -m finetune_trainer prepare|train|export|train-worker`: runs one stage and says how it ended.

However a stage ends, its exit code is the contract with the operator and its last word is in the termination
message.
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.stage import StageInput, TerminationMessage
from finetune_trainer import full_disk, log, stacks
from finetune_trainer.errors import (
    CRASH_EXIT_CODE,
    MESSAGE_LIMIT,
    StageFailure,
    StopRequested,
    WorkersFailed,
    describe,
    redact,
)
from finetune_trainer.stage_input import read_job, read_pod
from finetune_trainer.storage import Store, open_s3
from finetune_trainer.storage.retry import PATIENT, PROBING
from finetune_trainer.termination import write_last_word
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.stopping import stop_at_once
from finetune_trainer.unused import hide_unused_by_prepare, hide_unused_by_worker

Run = Callable[[StageInput, Store], TerminationMessage]

WORKER = "train-worker"
STAGES = {
    "prepare": "finetune_trainer.prepare.stage",
    "train": "finetune_trainer.train.stage",
    "export": "finetune_trainer.export.stage",
    WORKER: "finetune_trainer.train.worker",
}
"""Modules with `run(job, store) -> TerminationMessage`; imported when run, since some take seconds."""


def run_stage(name: str) -> tuple[int, TerminationMessage]:
    """Run a stage; return its exit code and last word, whatever happens in it."""
    try:
        job = read_job()
        log.bind(stage=name, attempt=job.attempt, rank=int(os.environ.get("RANK", "0")))
        store = open_s3(job.spec.storage.s3, PROBING if name == "prepare" else PATIENT)
        if name == "prepare":
            hide_unused_by_prepare(job.spec)
        if name == WORKER:
            hide_unused_by_worker(job.spec, Scratch(read_pod().work_dir).model)
        run: Run = import_module(STAGES[name]).run
        return ExitCode.DONE, _run(run, job, store)
    except StageFailure as failure:
        reached = failure.reached or TerminationMessage(reason=failure.reason)
        return failure.code, reached.model_copy(update={"message": _clip(failure.message)})
    except WorkersFailed as failure:
        return failure.code, failure.last_word
    except StopRequested:
        message = f"the stage {name} was stopped on request before it was done; it starts anew"
        return ExitCode.STOPPED, TerminationMessage(reason=Reason.STOPPED, message=message)
    except Exception as error:  # noqa: BLE001 - a crash too has an exit code and a last word
        log.exception("crashed", error)
        return CRASH_EXIT_CODE, TerminationMessage(reason=Reason.CRASHED, message=describe(error))


def _run(run: Run, job: StageInput, store: Store) -> TerminationMessage:
    """Run a stage; whatever a full disk makes fail is told as that."""
    try:
        return run(job, store)
    except (StageFailure, WorkersFailed):
        raise
    except Exception as error:
        if failure := full_disk.explain(error, job, read_pod().work_dir):
            log.exception("disk-full", error)
            raise failure from error
        raise


def main(arguments: list[str]) -> NoReturn:
    """Run the stage named by the only argument and exit."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        sys.exit(f"usage: python -m finetune_trainer {'|'.join(STAGES)}")
    if arguments[0] != WORKER:  # it sees to that itself once it can
        signal.signal(signal.SIGTERM, stop_at_once)
    stacks.answer_signals()
    log.capture_library_logs()
    code, message = run_stage(arguments[0])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_last_word(read_pod().termination_log, message)
    log.info("stage-ended", exitCode=code, reason=message.reason, message=message.message)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads that still try to reach the server.
    os._exit(code)


def _clip(text: str) -> str:
    text = redact(text)
    return text if len(text) <= MESSAGE_LIMIT else f"{text[: MESSAGE_LIMIT - 1]}…"


if __name__ == "__main__":
    main(sys.argv[1:])
