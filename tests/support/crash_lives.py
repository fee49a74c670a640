"""The lives that the crash-point suite cuts: one script for each thing that can happen to a job."""

from typing import Any

from crash_world import DONE, Actor, Deed, End, Life, Place, go_well, is_over

from finetune_operator.kinds import FINE_TUNE_JOB, JOB, POD

CRASHED = End(1, "Crashed")
QUEUE = {"kueue.x-k8s.io/queue-name": "team"}


def first_attempt_ends(end: End) -> Any:
    """Return the ends of a life in which rank 0 of the first attempt ends so, its peer by the Job controller."""

    def of(place: Place) -> End | None:
        if place.stage != "train" or place.attempt > 1:
            return go_well(place)
        return end if place.index == 0 else None

    return of


def first_attempt_runs_on(place: Place) -> End | None:
    return None if place.stage == "train" and place.attempt == 1 else go_well(place)


def training_runs_on(place: Place) -> End | None:
    return None if place.stage == "train" else DONE


def training_crashes(place: Place) -> End | None:
    return DONE if place.stage != "train" else CRASHED if place.index == 0 else None


def prepare_fails(_: Place) -> End | None:
    return End(64, "InvalidData")


def runs(actor: Actor, attempt: int = 1) -> bool:
    """Whether that attempt is told to run."""
    return actor.status.get("phase") == "Running" and actor.status.get("attempt") == attempt


def is_in(phase: str) -> Any:
    return lambda actor: actor.status.get("phase") == phase


def is_suspended(actor: Actor) -> bool:
    """Whether it is told to be suspended, and nothing lives any more."""
    return actor.status.get("phase") == "Suspended" and all(is_over(pod) for pod in actor.pods) and not actor.jobs


def is_held(actor: Actor) -> bool:
    """Whether a Job waits for its queue, and the status says so."""
    return actor.status.get("phase") == "Queued" and any(job["spec"].get("suspend") for job in actor.jobs)


def is_held_again(actor: Actor) -> bool:
    """Whether the second attempt waits for its queue."""
    return is_held(actor) and actor.status.get("attempt") == 2


async def suspend(actor: Actor) -> None:
    await actor.set_spec(suspend=True)


async def resume(actor: Actor) -> None:
    await actor.set_spec(suspend=False)


async def admit(actor: Actor) -> None:
    await _hold(actor, hold=False)


async def preempt(actor: Actor) -> None:
    await _hold(actor, hold=True)


async def _hold(actor: Actor, *, hold: bool) -> None:
    for job in actor.jobs:
        if bool(job["spec"].get("suspend")) is not hold:
            await actor.edit(JOB, job["metadata"]["name"], {"spec": {"suspend": hold}})


async def delete(actor: Actor) -> None:
    await actor.delete(FINE_TUNE_JOB, actor.name)


async def evict_all(actor: Actor) -> None:
    """Be the node controller, for a node that is gone: delete its pods, which nobody ends."""
    for pod in actor.pods:
        if not is_over(pod):
            target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
            name = pod["metadata"]["name"]
            await actor.edit(POD, name, {"status": {"conditions": [target]}}, subresource="/status")
            await actor.delete(POD, name)


def is_second_of_the_first(place: Place) -> bool:
    return place == Place("train", 1, 1)


LIVES = (
    Life("success", "Succeeded"),
    Life("counted-restart", "Succeeded", end=first_attempt_ends(CRASHED)),
    Life(
        "disruption",
        "Succeeded",
        end=first_attempt_ends(End(137, "Crashed", disruption="EvictionByEvictionAPI")),
    ),
    Life(
        "suspend-and-resume",
        "Succeeded",
        end=first_attempt_runs_on,
        deeds=(Deed(runs, suspend), Deed(is_suspended, resume)),
    ),
    Life("suspended-from-the-start", "Succeeded", {"suspend": True}, deeds=(Deed(is_suspended, resume),)),
    Life("deadline", "Failed", {"activeDeadlineSeconds": 300}, end=training_runs_on, speaks=True),
    Life("ttl", "Gone", {"ttlSecondsAfterFinished": 60}),
    Life("prepare-failure", "Failed", end=prepare_fails),
    Life(
        "queue-and-preemption",
        "Succeeded",
        labels=QUEUE,
        end=first_attempt_runs_on,
        deeds=(Deed(is_held, admit), Deed(runs, preempt), Deed(is_held_again, admit)),
    ),
    Life(
        "dead-node",
        "Succeeded",
        end=first_attempt_runs_on,
        deeds=(Deed(runs, evict_all),),
        is_cut_off=is_second_of_the_first,
    ),
    Life("hang", "Succeeded", end=first_attempt_runs_on, speaks=True),
    Life("invalid-spec", "Failed", {"model": {"chatTemplate": '"' * 60_000}}),
    Life("backoff-limit", "Failed", {"backoffLimit": 1}, end=training_crashes),
    Life("deletion-half-way", "Gone", end=first_attempt_runs_on, deeds=(Deed(runs, delete),)),
)
