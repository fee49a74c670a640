"""The verdict over the result: loaded in a fresh process without network, and compared with what was trained."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.fresh import Reply, Request

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest divergence of a merged model, in nats per token: rounding the sum of base and adapter to the number
format stays well below it, a wrong merge is far above."""

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # The small products of generation spend their time at barriers; on a shared node, threads that spin there take
    # the cores from the very threads they wait for (measured: eight times slower).
    "OMP_WAIT_POLICY": "PASSIVE",
}


def examine(request: Request, scratch: Path) -> Reply:
    """Load the result in a fresh process. Raises StageFailure when it is not what was trained."""
    reply = in_fresh_process(request, scratch)
    judge(reply)
    if request.classes is not None and reply.labels != request.classes.labels:
        raise _broken("its configuration does not have the labels that were trained")
    log.info("result-examined", divergence=reply.divergence, dtype=reply.dtype)
    return reply


def in_fresh_process(request: Request, scratch: Path) -> Reply:
    """Return what a fresh process finds. Raises StageFailure when it does not come to its end."""
    scratch.mkdir(parents=True, exist_ok=True)
    question, answer = scratch / "request.json", scratch / "reply.json"
    question.write_text(request.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "finetune_trainer.export.fresh", str(question), str(answer)]
    done = subprocess.run(command, env={**os.environ, **_ENVIRONMENT}, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode == -signal.SIGKILL:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.OUT_OF_MEMORY,
            "loading the result was killed for lack of memory; raise"
            " spec.podTemplate.stageResources.limits.memory to about three times the size of the base model",
        )
    if f"[Errno {errno.ENOSPC}]" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))
    if done.returncode != 0:
        log.error("examination-failed", stderr=done.stderr[-8000:])
        raise _broken(f"it cannot be loaded: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return Reply.model_validate_json(answer.read_text())


def judge(reply: Reply) -> None:
    """Raise StageFailure when the result is not what was trained."""
    if not reply.adapter_fits:
        raise _broken("the adapter's file does not have the tensors that the model has places for")
    if not reply.finite:
        raise _broken("its outputs are no numbers")
    if reply.divergence is not None and not reply.divergence <= TOLERANCES[reply.dtype]:
        raise _broken(
            f"the merged model differs from base and adapter by {reply.divergence:.3g} nats per token, more than the"
            f" {TOLERANCES[reply.dtype]:g} that rounding to {reply.dtype} explains; set spec.output.merge: false to"
            " get the adapter alone"
        )


def _broken(problem: str) -> StageFailure:
    return StageFailure(ExitCode.INVALID, Reason.INVALID_MODEL, f"the result is not published: {problem}")
