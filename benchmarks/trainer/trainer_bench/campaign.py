"""A campaign: the contenders of each method in turns, then the reference, then the loop beside bare steps."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_harness.command import say
from bench_harness.machine import commit_of
from bench_harness.proc import machine_seconds
from trainer_bench.contender import ROOT, Contender, contenders
from trainer_bench.machine import TRAINER, describe_machine
from trainer_bench.task import MethodName, Precision, Task

LINEUP: dict[MethodName, tuple[tuple[str, ...], ...]] = {
    "lora": (("ours", "trl_packed"), ("trl_default",)),
    "full": (("ours", "trl_packed"),),
    "qlora": (("ours", "trl_packed"),),
}
"""Who takes turns with whom. Padding is alone: it takes twice the memory, and all of a group have theirs at once."""
REFERENCED: tuple[MethodName, ...] = ("lora", "full")
"""Methods whose losses are compared with plain PyTorch's."""
OVERHEAD: MethodName = "lora"
"""The method with the shortest steps beside which the loop is measured: there it weighs most."""
OVERHEAD_REPEATS = 8
"""Times as many passes: a step of the loop and a bare one differ by less than two neighbouring steps do."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a campaign measures."""

    methods: Sequence[MethodName]
    precision: Precision
    steps: int
    repeats: int
    threads: int


@dataclass(frozen=True)
class Campaign:
    """A campaign in a folder with the model."""

    settings: Settings
    model: Path
    root: Path

    def run(self) -> Document:
        """Measure everything. Raises BenchError when a contender fails."""
        (self.root / "model").symlink_to(self.model)
        document: Document = {
            "settings": asdict(self.settings),
            "commit": commit_of(ROOT, TRAINER),
            "machine": describe_machine(),
            "rows": self._alone("rows", self._task("lora")),
            "methods": {method: self._method(method) for method in self.settings.methods},
        }
        if OVERHEAD in self.settings.methods:
            task = self._task(OVERHEAD, repeats=OVERHEAD_REPEATS * self.settings.repeats)
            document["overhead"] = {"method": OVERHEAD, **self._alone("overhead", task)}
        return document

    def _method(self, method: MethodName) -> Document:
        task = self._task(method)
        found: Document = {}
        for group in LINEUP[method]:
            found |= self._in_turns(group, task)
        if method in REFERENCED:
            exact = self._task(method, precision="fp32", repeats=1)
            found["reference"] = self._in_turns(("reference",), exact)["reference"]
            if task.precision != "fp32":
                found["ours_fp32"] = self._in_turns(("ours",), exact)["ours"]
        return found

    def _in_turns(self, roles: Sequence[str], task: Task) -> Document:
        """Let contenders train pass by pass, each time beginning with another one."""
        began = time.monotonic()
        say(f"{task.method}, {task.precision}: {', '.join(roles)} ...")
        with contenders(roles, task, self.settings.threads) as started:
            turns: dict[str, list[Document]] = {role: [] for role in roles}
            for repeat in range(task.repeats):
                shift = repeat % len(started)
                for contender in [*started[shift:], *started[:shift]]:
                    turns[contender.role].append(self._turn(contender))
            ends = {contender.role: contender.finish() for contender in started}
        for role in roles:
            told = ", ".join(f"{turn['wall_s']:.1f}" for turn in turns[role])
            say(f"  {role}: {told} s, {turns[role][-1]['peak_mb']:.0f} MB")
        say(f"  ({time.monotonic() - began:.0f} s)")
        return {role: {"turns": turns[role], "end": ends[role]} for role in roles}

    def _turn(self, contender: Contender) -> Document:
        before, start = machine_seconds(), time.monotonic()
        turn = contender.turn()
        seconds = (time.monotonic() - start) * self.settings.threads
        others = max(0.0, machine_seconds() - before - turn["cpu_s"])
        return {name: round(value, 3) for name, value in turn.items()} | {
            "others_cpu_percent": round(100 * others / seconds, 1)
        }

    def _alone(self, role: str, task: Task) -> Document:
        began = time.monotonic()
        say(f"{role} ...")
        with contenders((role,), task, self.settings.threads) as (contender,):
            told = contender.finish()
        say(f"  ({time.monotonic() - began:.0f} s)")
        return told

    def _task(self, method: MethodName, **changes: Any) -> Task:
        settings = self.settings
        common = {"precision": settings.precision, "steps": settings.steps, "repeats": settings.repeats}
        return Task(method=method, root=str(self.root), **(common | changes))
