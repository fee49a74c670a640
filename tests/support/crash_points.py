"""Runs one life to its end, cut or not, and tells what came of it."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from crash_feed import Feed, Object
from crash_replica import Cut, Ledger, Operator, settings_for
from crash_world import Actor, Life

from finetune_api.stage import ProgressSample
from finetune_api.status import Progress
from finetune_loopback.jobs import merge, minimal_job
from finetune_operator.kinds import FINE_TUNE_JOB
from finetune_operator.workqueue import Key

SETTLE_SECONDS = 120.0
LOOK_SECONDS = 0.01
MOST_JUMPS = 600
TIMES = frozenset(
    {"startTime", "completionTime", "phaseTime", "activeSince", "lastTransitionTime", "lastUpdateTime", "usage"}
)
TEXT_TIME = re.compile(r"\d\d:\d\d:\d\d")
POD_SUFFIX = re.compile(r"(-a\d+-\d)-[0-9a-f]{5}")


class StuckError(AssertionError):
    """A life that does not end."""


@dataclass(frozen=True)
class Outcome:
    """How a life ended."""

    phase: str
    """Gone for a FineTuneJob that is not there any more."""
    status: Object
    """The status without times and uids."""
    made: tuple[tuple[str, str], ...]
    """Kind and name of each Job and pod that came into being."""
    left: tuple[str, ...]
    """What is there at the end: kind, name and whether it lives."""
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """One life that was lived."""

    life: Life
    cut: Cut | None
    outcome: Outcome
    writes: tuple[str, ...]
    was_cut: bool
    starts: int


async def live(feed: Feed, life: Life, *, namespace: str, cut: Cut | None = None) -> Record:
    """Live a life in a namespace of its own; stop the operator once, at the cut."""
    await feed.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    ledger = Ledger(cut)
    operator = Operator(feed, settings_for(feed.api, namespace), ledger=ledger)
    actor = Actor(feed, life, namespace=namespace)
    try:
        async with asyncio.timeout(SETTLE_SECONDS), asyncio.TaskGroup() as group:
            tasks = [group.create_task(operator.serve()), group.create_task(actor.play())]
            await _submit(feed, life, namespace=namespace, name=actor.name)
            await _settle(feed, operator, actor)
            for task in tasks:
                task.cancel()
        outcome = await _outcome(feed, actor)
    except TimeoutError as error:
        raise StuckError(f"{life.name} cut at {cut}: still {actor.status} after {SETTLE_SECONDS} s") from error
    finally:
        operator.leave()
        actor.leave()
    return Record(life, cut, outcome, tuple(ledger.writes), ledger.was_cut, operator.starts)


async def _submit(feed: Feed, life: Life, *, namespace: str, name: str) -> None:
    two_nodes = {"distributed": {"numNodes": 2, "device": "cpu"}, "training": {"globalBatchSize": 2}}
    body = minimal_job(name, **merge(two_nodes, life.spec))
    body["metadata"]["labels"] = life.labels
    await feed.write("POST", FINE_TUNE_JOB, namespace, body=body)


async def _settle(feed: Feed, operator: Operator, actor: Actor) -> None:
    """Return when nothing will happen any more; whenever nothing happens now, let time pass."""
    jumps = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if not (operator.is_idle and actor.is_idle and feed.has_told(actor.namespace)):
            continue
        if _is_to_speak(actor):
            _speak(operator, actor)
        elif not operator.clock.jump():
            return
        else:
            jumps += 1
            if jumps > MOST_JUMPS:
                raise StuckError(f"{actor.life.name}: time passes and nothing comes of it; {actor.status}")


def _is_to_speak(actor: Actor) -> bool:
    status = actor.status
    told = (status.get("progress") or {}).get("attempt")
    return actor.life.speaks and status.get("phase") == "Running" and told != status.get("attempt")


def _speak(operator: Operator, actor: Actor) -> None:
    attempt = actor.status["attempt"]
    progress = Progress(step=5, total_steps=10, last_update_time=operator.clock.now())
    sample = ProgressSample(attempt=attempt, progress=progress)
    uid = (actor.tune or {})["metadata"]["uid"]
    operator.replica.samples.put(Key(actor.namespace, actor.name), uid=uid, sample=sample)


async def _outcome(feed: Feed, actor: Actor) -> Outcome:
    tune = actor.tune
    uid = tune["metadata"]["uid"] if tune else ""
    left = [f"Job {_name(one)}" for one in actor.jobs]
    left += [f"pod {_name(one)} {one['status']['phase']}" for one in actor.pods]
    made = ((kind, POD_SUFFIX.sub(r"\1", name)) for kind, name in feed.made[actor.namespace])
    return Outcome(
        phase=actor.status.get("phase", "none") if tune else "Gone",
        status=_timeless(actor.status, uid=uid),
        made=tuple(sorted(made)),
        left=tuple(sorted(left)),
        violations=tuple(actor.violations),
    )


def _name(one: Object) -> str:
    return POD_SUFFIX.sub(r"\1", one["metadata"]["name"])


def _timeless(part: Any, *, uid: str) -> Any:
    if isinstance(part, dict):
        return {name: _timeless(value, uid=uid) for name, value in part.items() if name not in TIMES}
    if isinstance(part, list):
        return [_timeless(value, uid=uid) for value in part]
    if isinstance(part, str):
        return POD_SUFFIX.sub(r"\1", TEXT_TIME.sub("<time>", part.replace(uid, "<uid>") if uid else part))
    return part
