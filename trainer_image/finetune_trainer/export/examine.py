"""The verdict over the result: loaded in a fresh process without network, and compared with what was trained."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.fresh import Reply, Request

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest divergence of a merged model, in nats per token: rounding the sum of base and adapter to the number
format stays well below it, a wrong merge is far above."""

LOSS_TOLERANCES = {"float32": 5e-3, "bfloat16": 2e-1, "float16": 2e-1}
"""Largest mean distance of two losses of the same token (or row), in nats: training computes with other kernels, on
packed rows. Of SmolLM2-135M bf16 and fp32 are 0.04 apart; one wrong matrix of its 210 makes 0.9."""
_FORMATS = {"bf16": "bfloat16", "fp32": "float32"}
_INT8_TOLERANCE = 2e-1
"""With 8 bits, which columns are left in 16 depends on all rows that go through at once."""

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
    loss_gap = judge_losses(reply, request)
    if request.classes is not None and reply.labels != request.classes.labels:
        raise _broken("its configuration does not have the labels that were trained")
    log.info("result-examined", divergence=reply.divergence, loss_gap=loss_gap, dtype=reply.dtype)
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


def judge_losses(reply: Reply, request: Request) -> float | None:
    """Return how far the result's losses are from those that training ended with, in nats; None: those are not known.

    Raises StageFailure when they are further away than rounding explains.
    """
    trained = request.trained_losses
    if not trained:  # by an earlier release, or rows of one token
        return None
    if len(reply.losses) != len(trained):
        raise _broken(f"it predicts {len(reply.losses)} tokens of rows in which training predicted {len(trained)}")
    gap = fmean(abs(ours - theirs) for ours, theirs in zip(reply.losses, trained, strict=True))
    tolerance = _loss_tolerance(reply, request)
    if gap > tolerance:
        raise _broken(
            f"it predicts otherwise than the trained model: losses on the same rows differ by {gap:.3g} nats, and"
            f" rounding explains no more than {tolerance:g}; please report this"
        )
    return gap


def _loss_tolerance(reply: Reply, request: Request) -> float:
    formats = {reply.dtype, _FORMATS[request.precision]}
    is_int8 = request.quantization is not None and request.quantization.bits == 8
    return max(_INT8_TOLERANCE if is_int8 else 0.0, *(LOSS_TOLERANCES[name] for name in formats))


def _broken(problem: str) -> StageFailure:
    return StageFailure(ExitCode.INVALID, Reason.INVALID_MODEL, f"the result is not published: {problem}")
