"""What must hold whatever happens: pure functions that return what is wrong, in words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_api.reasons import ConditionType, Phase
from finetune_api.status import FineTuneJobStatus
from finetune_chaos.view import Pod

RESTING = frozenset({Phase.SUSPENDED, Phase.SUCCEEDED, Phase.FAILED})
"""Phases in which nothing computes."""
LOSS_TOLERANCE = 1e-4
"""Relative; a resumed run is the same run."""


def two_at_once(pods: Iterable[Pod]) -> list[str]:
    """Return whether more than one attempt or stage, or two pods of one index, may compute now."""
    live = [pod for pod in pods if pod.is_live]
    groups = sorted({pod.group for pod in live})
    found = [f"two live at once: {', '.join(groups)} ({_names(live)})"] if len(groups) > 1 else []
    twins = [key for key, number in Counter((pod.group, pod.index) for pod in live).items() if number > 1]
    return found + [f"several live pods of {group}, index {index}: {_names(live)}" for group, index in twins]


def step_back(old: FineTuneJobStatus, new: FineTuneJobStatus) -> list[str]:
    """Return what went backwards between two statuses of one job."""
    found = []
    if old.phase.is_terminal and new.phase is not old.phase:
        found.append(f"phase left {old.phase} for {new.phase}")
    for name, before, after in (
        ("attempt", old.attempt, new.attempt),
        ("restarts.total", old.restarts.total, new.restarts.total),
        ("restarts.counted", old.restarts.counted, new.restarts.counted),
        ("observedGeneration", old.observed_generation or 0, new.observed_generation or 0),
    ):
        if after < before:
            found.append(f"{name} went from {before} back to {after}")
    if old.progress and new.progress and old.progress.attempt == new.progress.attempt:
        found += _backwards("progress.step", old.progress.step, new.progress.step)
        found += _backwards("progress.percent", old.progress.percent, new.progress.percent)
    if old.last_checkpoint and old.run_id == new.run_id:
        step = new.last_checkpoint.step if new.last_checkpoint else -1
        found += _backwards("lastCheckpoint.step", old.last_checkpoint.step, step)
    return found


def _backwards(name: str, before: int, after: int) -> list[str]:
    return [f"{name} went from {before} back to {after}"] if after < before else []


def contradictions(status: FineTuneJobStatus) -> list[str]:
    """Return what one status says against itself."""
    found = []
    if status.restarts.counted > status.restarts.total:
        found.append(f"restarts.counted {status.restarts.counted} exceeds total {status.restarts.total}")
    if (status.completion_time is not None) != status.phase.is_terminal:
        found.append(f"completionTime is {status.completion_time} in phase {status.phase}")
    for kind, phase in ((ConditionType.SUCCEEDED, Phase.SUCCEEDED), (ConditionType.FAILED, Phase.FAILED)):
        told = any(one.type is kind and one.status == "True" for one in status.conditions)
        if told != (status.phase is phase):
            found.append(f"condition {kind} is {told} in phase {status.phase}")
    if status.phase is not Phase.PENDING and not (status.reason and status.message):
        found.append(f"no reason or message in phase {status.phase}")
    return found


@dataclass(frozen=True)
class Look:
    """A fresh look at the cluster: one job, its pods and the numbers of the attempts whose Jobs are there."""

    name: str
    generation: int
    num_nodes: int
    status: FineTuneJobStatus
    pods: Sequence[Pod]
    attempts: frozenset[int]


def untruths(look: Look) -> list[str]:
    """Return where the status differs from a fresh look. What Kubernetes does in seconds may be on its way."""
    status, phase = look.status, look.status.phase
    live = [pod for pod in look.pods if pod.is_live]
    found = contradictions(status) + two_at_once(look.pods)
    if status.observed_generation != look.generation:
        found.append(f"observedGeneration is {status.observed_generation}, the spec's is {look.generation}")
    if look.attempts and status.attempt < max(look.attempts):
        found.append(f"status.attempt is {status.attempt}, but attempt {max(look.attempts)} has a Job")
    if phase in RESTING and live:
        found.append(f"phase {phase}, but pods live: {_names(live)}")
    if phase is Phase.RUNNING:
        found += _untrue_running(look)
    if phase in (Phase.PREPARING, Phase.EXPORTING):
        stage = "prepare" if phase is Phase.PREPARING else "export"
        found += [f"phase {phase}, but {pod.name} lives" for pod in live if pod.stage != stage]
    return found


def _untrue_running(look: Look) -> list[str]:
    expected = f"train {look.status.attempt}"
    present = {pod.index for pod in look.pods if pod.group == expected}
    found = [f"phase Running, but {pod.name} lives" for pod in look.pods if pod.is_live and pod.group != expected]
    if look.status.attempt not in look.attempts:
        found.append(f"phase Running, but Job {look.name}-a{look.status.attempt} is not there")
    missing = sorted(set(range(look.num_nodes)) - present)
    return found + ([f"phase Running, but pods of index {missing} are not there"] if missing else [])


def miscounts(status: FineTuneJobStatus, *, resumes: int) -> list[str]:
    """Return how the restarts of a job that succeeded differ from its attempts; each resume may begin one."""
    training = status.restarts.total - status.restarts.prepare - status.restarts.export
    if status.attempt - 1 - resumes <= training <= status.attempt - 1:
        return []
    return [f"{training} restarts of training, but attempt {status.attempt} after {resumes} resumes"]


def losses_apart(status: FineTuneJobStatus, reference: FineTuneJobStatus) -> list[str]:
    """Return where the scores of a disturbed run differ from the undisturbed one's."""
    pairs = {"training loss": [], "validation loss": [], "test loss": []}  # type: dict[str, list[float | None]]
    for one in (status, reference):
        pairs["training loss"].append(one.progress.loss if one.progress else None)
        pairs["validation loss"].append(one.progress.eval_loss if one.progress else None)
        pairs["test loss"].append(one.evaluation.tuned.loss if one.evaluation and one.evaluation.tuned else None)
    return [
        f"{name} is {told}, undisturbed {expected}"
        for name, (told, expected) in pairs.items()
        if told is None or expected is None or abs(told - expected) > LOSS_TOLERANCE * abs(expected)
    ]


def _names(pods: Iterable[Pod]) -> str:
    return ", ".join(f"{pod.name} {pod.phase}{' leaving' if pod.is_leaving else ''}" for pod in pods)
