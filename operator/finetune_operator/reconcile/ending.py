"""What the end of one pod means, before it is weighed against the ends of the others."""

import re
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import NamedTuple

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_operator.model import ChildPod
from finetune_operator.reconcile.advice import SCRATCH_SPACE
from finetune_operator.reconcile.facts import last_word

OOM_KILLED = "OOMKilled"
EVICTED = "Evicted"
SCRATCH = re.compile(r"emptydir|local ephemeral|ephemeral local", re.IGNORECASE)
"""What the kubelet says when a pod used more of its own scratch space than it may; a node that is full says another
thing, and that is a disruption (kubernetes/pkg/kubelet/eviction)."""
NOT_YET = datetime.max.replace(tzinfo=UTC)
SPOKEN = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.INVALID_DATA,
        Reason.INVALID_MODEL,
        Reason.OUTPUT_EXISTS,
        Reason.DEVICE_UNAVAILABLE,
        Reason.BUCKET_NOT_FOUND,
        Reason.OBJECT_NOT_FOUND,
        Reason.STORAGE_ACCESS_DENIED,
        Reason.STORAGE_UNREACHABLE,
        Reason.STORAGE_FAILED,
        Reason.OUT_OF_DEVICE_MEMORY,
        Reason.OUT_OF_MEMORY,
        Reason.DIVERGED,
        Reason.SCRATCH_FULL,
        Reason.HUNG,
        Reason.STOPPED,
        Reason.CRASHED,
    }
)
"""Reasons a stage may give for its failure; the others are the operator's to give."""


class Action(Enum):
    """What follows from a failure."""

    FAIL = "fail now"
    RETRY = "restart, counted"
    RESTART = "restart, free"
    SAVE_MEMORY = "restart, free, with a plan that needs less memory"


class Verdict(NamedTuple):
    """What a failure means."""

    action: Action
    reason: Reason
    message: str


class Weight(IntEnum):
    """How telling an end is among those of one Job: the least tells why the Job failed."""

    FATAL = 0
    OUT_OF_MEMORY = 1
    EVICTED = 2
    DISRUPTED = 3
    STORAGE = 4
    OTHER = 5


class Ending(NamedTuple):
    """One pod's bad end; ordered by what tells more, then by what came first."""

    weight: Weight
    finished: datetime
    tie: int
    pod_index: int
    verdict: Verdict


REASON_OF_CODE: dict[int, Reason] = {
    ExitCode.INVALID: Reason.INVALID_SPEC,
    ExitCode.OUT_OF_DEVICE_MEMORY: Reason.OUT_OF_DEVICE_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
}
"""Codes after which the same attempt would end so again, with the reason where the stage gave none."""
TIES: dict[int, int] = {ExitCode.KILLED: 0, ExitCode.STOPPED: 2}
"""Of ends in the same second a kill tells more than a crash, and a crash more than a stop: peers of a crashed rank
are stopped with their Job, and a stop is free."""


def end_of(pod: ChildPod) -> Ending | None:
    """Return what a pod's bad end means, or None when it ended well or not at all."""
    checks = (_fatal, _scratch_full, _disrupted, _out_of_memory, _deleted, _failed, _exited)
    return next((ending for check in checks if (ending := check(pod))), None)


def _fatal(pod: ChildPod) -> Ending | None:
    if pod.terminated is None or pod.terminated.exit_code not in REASON_OF_CODE:
        return None
    return _ending(pod, Weight.FATAL, judge_code(pod.terminated.exit_code, who=f"pod {pod.name}"))


def _scratch_full(pod: ChildPod) -> Ending | None:
    if pod.reason != EVICTED or not SCRATCH.search(pod.message):
        return None
    text = f"pod {pod.name} was evicted: {pod.message}; {SCRATCH_SPACE}"
    return _ending(pod, Weight.EVICTED, Verdict(Action.FAIL, Reason.SCRATCH_FULL, text))


def _disrupted(pod: ChildPod) -> Ending | None:
    if not pod.disruption and pod.phase != "Unknown":
        return None
    text = f"pod {pod.name} lost its place on node {pod.node}: {pod.disruption or 'the node does not answer'}"
    return _ending(pod, Weight.DISRUPTED, Verdict(Action.RESTART, Reason.DISRUPTED, text))


def _out_of_memory(pod: ChildPod) -> Ending | None:
    if pod.terminated is None or pod.terminated.reason != OOM_KILLED:
        return None
    text = f"pod {pod.name} was killed for lack of memory"
    return _ending(pod, Weight.OUT_OF_MEMORY, Verdict(Action.SAVE_MEMORY, Reason.OUT_OF_MEMORY, text))


def _deleted(pod: ChildPod) -> Ending | None:
    """A training pod is deleted with its Job, which tells why; nobody but a person deletes the pod of a stage."""
    if pod.phase != "Failed" or not pod.is_whole_stage or pod.deletion_timestamp is None:
        return None
    verdict = Verdict(Action.RESTART, Reason.DISRUPTED, f"somebody deleted pod {pod.name}")
    return _ending(pod, Weight.DISRUPTED, verdict)


def _failed(pod: ChildPod) -> Ending | None:
    """A pod that failed without its container, or whose own reason says more than the exit code."""
    if pod.phase != "Failed" or not (pod.reason or pod.terminated is None):
        return None
    text = ": ".join(part for part in (f"pod {pod.name} failed", pod.reason, pod.message) if part)
    return _ending(pod, Weight.OTHER, Verdict(Action.RETRY, Reason.CRASHED, text))


def judge_code(code: int, *, who: str) -> Verdict:
    """Return what an exit code means when nothing else is known."""
    if code == ExitCode.OUT_OF_DEVICE_MEMORY:
        return Verdict(Action.SAVE_MEMORY, REASON_OF_CODE[code], f"{who} ran out of its GPU's memory")
    if code in REASON_OF_CODE:
        return Verdict(Action.FAIL, REASON_OF_CODE[code], f"{who} exited with code {code}")
    if code == ExitCode.STOPPED:
        return Verdict(Action.RESTART, Reason.STOPPED, f"{who} was told to stop and committed its state")
    if code == ExitCode.STORAGE:
        return Verdict(Action.RETRY, Reason.STORAGE_FAILED, f"{who} gave up on the storage")
    if code == ExitCode.HUNG:
        return Verdict(Action.RETRY, Reason.HUNG, f"{who} made no step for too long; its log holds the stacks")
    how = f"was killed by signal {code - 128}" if code > 128 else f"exited with code {code}"
    return Verdict(Action.RETRY, Reason.CRASHED, f"{who} {how}")


def _exited(pod: ChildPod) -> Ending | None:
    """A pod that was told to stop because a peer failed may fail on the storage too: that tells nothing."""
    end = pod.terminated
    if end is None or end.exit_code == 0:
        return None
    is_storage = end.exit_code == ExitCode.STORAGE and pod.deletion_timestamp is None
    verdict = judge_code(end.exit_code, who=f"pod {pod.name}")
    return _ending(pod, Weight.STORAGE if is_storage else Weight.OTHER, verdict)


def _ending(pod: ChildPod, weight: Weight, verdict: Verdict) -> Ending:
    """Put the stage's own words in place of ours, and leave what follows from the failure to the exit code."""
    end = pod.terminated
    words = last_word(pod)
    if words and words.reason in SPOKEN and weight in (Weight.FATAL, Weight.STORAGE, Weight.OTHER):
        verdict = verdict._replace(reason=words.reason, message=words.message or verdict.message)
    return Ending(
        weight=weight,
        finished=(end.finished_at if end else None) or NOT_YET,
        tie=TIES.get(end.exit_code, 1) if end else 1,
        pod_index=pod.index,
        verdict=verdict,
    )
