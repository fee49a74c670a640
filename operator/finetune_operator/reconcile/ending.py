"""What the end of one pod means, before it is weighed against the ends of the others."""

from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import NamedTuple

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_operator.model import ChildPod, Terminated
from finetune_operator.reconcile.advice import killed_advice
from finetune_operator.reconcile.facts import last_word

OOM_KILLED = "OOMKilled"
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


class Verdict(NamedTuple):
    """What a failure means."""

    action: Action
    reason: Reason
    message: str


class Weight(IntEnum):
    """How telling an end is among those of one Job: the least tells why the Job failed."""

    FATAL = 0
    OUT_OF_MEMORY = 1
    DISRUPTED = 2
    STORAGE = 3
    OTHER = 4


class Ending(NamedTuple):
    """One pod's bad end; ordered by what tells more, then by what came first."""

    weight: Weight
    finished: datetime
    tie: int
    pod_index: int
    verdict: Verdict


FATAL_CODES: dict[int, Reason] = {
    ExitCode.INVALID: Reason.INVALID_SPEC,
    ExitCode.OUT_OF_DEVICE_MEMORY: Reason.OUT_OF_DEVICE_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
}
"""Codes that no retry can mend, with the reason where the stage gave none."""
TIES: dict[int, int] = {ExitCode.KILLED: 0, ExitCode.STOPPED: 2}
"""Of ends in the same second a kill tells more than a crash, and a crash more than a stop: peers of a crashed rank
are stopped with their Job, and a stop is free."""


def end_of(pod: ChildPod) -> Ending | None:
    """Return what a pod's bad end means, or None when it ended well or not at all."""
    end = pod.terminated
    if end and end.exit_code in FATAL_CODES:
        return _ending(pod, Weight.FATAL, judge_code(end.exit_code, who=f"pod {pod.name}"))
    if pod.disruption or pod.phase == "Unknown":
        text = f"pod {pod.name} lost its place on node {pod.node}: {pod.disruption or 'the node does not answer'}"
        return _ending(pod, Weight.DISRUPTED, Verdict(Action.RESTART, Reason.DISRUPTED, text))
    if end and end.reason == OOM_KILLED:
        text = f"pod {pod.name} was killed for lack of memory; {killed_advice(pod.stage)}"
        return _ending(pod, Weight.OUT_OF_MEMORY, Verdict(Action.FAIL, Reason.OUT_OF_MEMORY, text))
    if pod.phase == "Failed" and (pod.reason or end is None):
        text = ": ".join(part for part in (f"pod {pod.name} failed", pod.reason, pod.message) if part)
        return _ending(pod, Weight.OTHER, Verdict(Action.RETRY, Reason.CRASHED, text))
    return _exit(pod, end) if end and end.exit_code != 0 else None


def judge_code(code: int, *, who: str) -> Verdict:
    """Return what an exit code means when nothing else is known."""
    if code in FATAL_CODES:
        return Verdict(Action.FAIL, FATAL_CODES[code], f"{who} exited with code {code}")
    if code == ExitCode.STOPPED:
        return Verdict(Action.RESTART, Reason.STOPPED, f"{who} was told to stop and committed its state")
    if code == ExitCode.STORAGE:
        return Verdict(Action.RETRY, Reason.STORAGE_FAILED, f"{who} gave up on the storage")
    how = f"was killed by signal {code - 128}" if code > 128 else f"exited with code {code}"
    return Verdict(Action.RETRY, Reason.CRASHED, f"{who} {how}")


def _exit(pod: ChildPod, end: Terminated) -> Ending:
    """A pod that was told to stop because a peer failed may fail on the storage too: that tells nothing."""
    is_storage = end.exit_code == ExitCode.STORAGE and pod.deletion_timestamp is None
    verdict = judge_code(end.exit_code, who=f"pod {pod.name}")
    return _ending(pod, Weight.STORAGE if is_storage else Weight.OTHER, verdict)


def _ending(pod: ChildPod, weight: Weight, verdict: Verdict) -> Ending:
    """Put the stage's own words in place of ours, and leave what follows from the failure to the exit code."""
    end = pod.terminated
    words = last_word(pod)
    if words and words.reason in SPOKEN and weight not in (Weight.DISRUPTED, Weight.OUT_OF_MEMORY):
        verdict = verdict._replace(reason=words.reason, message=words.message or verdict.message)
    return Ending(
        weight=weight,
        finished=(end.finished_at if end else None) or NOT_YET,
        tie=TIES.get(end.exit_code, 1) if end else 1,
        pod_index=pod.index,
        verdict=verdict,
    )
