"""Runs in turns, kept one by one in a file, so that a campaign that was cut off goes on where it was."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_harness.command import say
from bench_harness.errors import BenchError
from bench_harness.machine import commit_of
from bench_harness.scratch import scratch
from finetune_loopback.processes import ServerError
from operator_bench.contender import Contender
from operator_bench.figures import Figures, figures_of, summarize
from operator_bench.machine import OPERATOR, describe_machine
from operator_bench.run import Plan, Run

OTHERS_LIMIT = 10.0
"""Percent of the machine's CPU time: a run in which other programs took more is done again."""


@dataclass(frozen=True)
class Campaign:
    """What is measured, how often, and where the runs are kept."""

    contenders: Sequence[Contender]
    plan: Plan
    repeats: int
    tries: int
    """Runs of a contender per repeat, at most; the calmest counts when none was calm enough."""
    file: Path

    def run(self) -> dict[str, Any]:
        """Do the runs that are missing; return the file's contents."""
        document = self._load()
        for repeat in range(1, self.repeats + 1):
            for contender in self.contenders:
                self._repeat(document, contender, repeat)
        return document

    def _repeat(self, document: dict[str, Any], contender: Contender, repeat: int) -> None:
        """Measure until a run was calm or the tries are used up; those that failed count as tries too."""
        failed = 0
        while True:
            runs = [run for run in document["runs"] if self._is_of(run, contender) and run["repeat"] == repeat]
            if any(_is_calm(run) for run in runs) or len(runs) + failed >= self.tries:
                return
            key = {**self._key(contender), "repeat": repeat, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            try:
                document["runs"].append({**key, **self._measure(contender)})
            except (BenchError, ServerError) as error:
                failed += 1
                say(f"  failed: {error}")
                document["failed"].append({**key, "error": str(error)})
            self._save(document)

    def _measure(self, contender: Contender) -> Figures:
        began = time.monotonic()
        say(f"{contender.name}: {self.plan.jobs} jobs, {_limits(self.plan)} limits ...")
        with scratch("bench-operator-", (BenchError, ServerError)) as directory:
            run = Run(contender, self.plan, directory)
            figures = figures_of(contender, run.measure())
        busy = "" if _is_calm(figures) else f"; others took {figures['others_cpu_percent']:.0f} % of the CPU"
        say(
            f"  first pod p50 {figures['p50_first_pod_s']:.1f} s, p99 {figures['p99_first_pod_s']:.1f} s,"
            f" all done {figures['all_done_s']:.1f} s, {figures['writes_per_job']:.1f} writes per job"
            f" ({time.monotonic() - began:.0f} s{busy})"
        )
        return figures

    def _key(self, contender: Contender) -> dict[str, str]:
        commit = commit_of(self.plan.source, OPERATOR) if contender.name == "ours" else ""
        return {"contender": contender.name, **({"commit": commit} if commit else {})}

    def _is_of(self, run: Figures, contender: Contender) -> bool:
        return all(run.get(name) == value for name, value in self._key(contender).items())

    def _load(self) -> dict[str, Any]:
        what = {"jobs": self.plan.jobs, "limits": _limits(self.plan)}
        if not self.file.exists():
            return {**what, "machine": describe_machine(), "runs": [], "failed": []}
        document: dict[str, Any] = json.loads(self.file.read_text())
        found = {name: document[name] for name in what}
        if found != what:
            raise BenchError(f"{self.file} holds runs of {found}, not of {what}: name another file with --out")
        return document

    def _save(self, document: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(document, indent=1) + "\n")
        fresh.replace(self.file)


def result_line(document: dict[str, Any]) -> dict[str, Any]:
    """Return medians and spread of every contender in a file of runs; of ours, those of the newest commit."""
    what = {name: document[name] for name in ("jobs", "limits", "machine")}
    failed = Counter(run["contender"] for run in document["failed"])
    names = dict.fromkeys(run["contender"] for run in document["runs"])
    return what | {name: {**_summary(counted(document, name)), "failed": failed[name]} for name in names}


def counted(document: dict[str, Any], name: str) -> list[Figures]:
    """Return the runs of a contender that count: of each repeat the calm one, or else the calmest."""
    runs = [run for run in document["runs"] if run["contender"] == name]
    newest = runs[-1].get("commit") if runs else None
    by_repeat: dict[int, Figures] = {}
    for run in runs:
        best = by_repeat.get(run["repeat"])
        if run.get("commit") == newest and (best is None or _noise(run) < _noise(best)):
            by_repeat[run["repeat"]] = run
    return list(by_repeat.values())


def _summary(runs: list[Figures]) -> Figures:
    commit = {"commit": runs[-1]["commit"]} if "commit" in runs[-1] else {}
    return {**commit, **summarize(runs), "calm": all(_is_calm(run) for run in runs)}


def _is_calm(run: Figures) -> bool:
    return _noise(run) <= OTHERS_LIMIT


def _noise(run: Figures) -> float:
    return float(run["others_cpu_percent"])


def _limits(plan: Plan) -> str:
    return "raised" if plan.raised else "default"
