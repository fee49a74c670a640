"""Many rounds: one JSON line each, and a summary at the end."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from finetune_cluster.layout import layout_from_environment
from finetune_cluster.process import ClusterError

from finetune_chaos.deck import Round
from finetune_chaos.evidence import keep_evidence
from finetune_chaos.health import UnhealthyError, await_health
from finetune_chaos.kube import KubeError
from finetune_chaos.play import HEALTH_SECONDS, Arena, Outcome, Reference
from finetune_chaos.watcher import Watcher
from finetune_chaos.workload import NAMESPACE, deploy
from quickstart.steps import StepError

Line = dict[str, Any]


@contextmanager
def opened_arena() -> Iterator[Arena]:
    """Yield an arena on the running cluster, with the operator installed and the namespace made anew."""
    workload = deploy()
    with Watcher(workload.kube) as watcher:
        await_health(workload.kube, HEALTH_SECONDS)
        yield Arena(workload, watcher, layout_from_environment())
    workload.kube.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def play_all(arena: Arena, rounds: Sequence[Round], tell: Callable[[Line], None]) -> Line:
    """Play rounds, tell each as it ends, and return the summary. Raises UnhealthyError when the cluster is lost."""
    start = time.monotonic()
    reference = arena.undisturbed()
    lines = []
    for one in rounds:
        # A round that broke off may have left its fault behind; one more chance to mend is fair.
        await_health(arena.workload.kube, HEALTH_SECONDS)
        line = play_one(arena, one, reference)
        tell(line)
        lines.append(line)
    return summary(lines, reference=reference, seconds=time.monotonic() - start)


def play_one(arena: Arena, one: Round, reference: Reference) -> Line:
    """Play a round and return its line."""
    outcome = Outcome()
    try:
        arena.play(one, reference, outcome)
    except (StepError, KubeError, ClusterError, UnhealthyError) as error:
        outcome.violations.append(f"the round broke off: {type(error).__name__}: {error}")
        keep_evidence(arena.watcher, one, outcome.violations)
    chosen = {"seed": one.seed, "round": one.number, "fault": one.fault.name, "aim": str(one.phase)}
    return {**chosen, "delay": one.delay, "hold": one.hold, **asdict(outcome)}


def summary(lines: Sequence[Line], *, reference: Reference, seconds: float) -> Line:
    """Return the closing line."""
    compared = [line["identical"] for line in lines if line["identical"] is not None]
    return {
        "rounds": len(lines),
        "violations": sum(len(line["violations"]) for line in lines),
        "failed_rounds": [line["round"] for line in lines if line["violations"]],
        "missed": [line["round"] for line in lines if line["missed"]],
        "faults": len({line["fault"] for line in lines}),
        "succeeded": sum(line["phase"] == "Succeeded" for line in lines),
        "identical_weights": f"{sum(compared)}/{len(compared)}",
        "undisturbed_seconds": round(reference.seconds, 1),
        "mean_round_seconds": round(sum(line["seconds"] for line in lines) / max(1, len(lines)), 1),
        "seconds": round(seconds),
    }


def tell_json(line: Line) -> None:
    """Print a line."""
    print(json.dumps(line), flush=True)
    if line.get("violations"):
        print(f"round {line.get('round')}: {line['violations']}", file=sys.stderr, flush=True)
