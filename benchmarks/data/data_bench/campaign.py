"""A campaign: ours on all rows, then ours and the peer in turns on the first of them."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_harness.command import say
from bench_harness.errors import BenchError
from bench_harness.machine import commit_of, describe_hardware
from data_bench import ours, peer
from data_bench.contender import ROOT, Readings, run
from data_bench.rows import MEGABYTE, write_rows
from data_bench.task import TEMPLATE, Task

MEASURED = ("trainer_image", "api", "benchmarks/data/data_bench")
LIBRARIES = ("transformers", "tokenizers", "datasets", "pyarrow", "numpy")
_COMPARED = 300
"""Rows of a split whose tokens and flags are compared with the peer's."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a campaign measures."""

    megabytes: float
    """Of rows, 10**6 bytes each."""
    sample_megabytes: float
    """Of them, the first: those on which both contenders are measured."""
    repeats: int
    processes: int
    seed: int = 0


def measure(settings: Settings, tokenizer: Path, root: Path) -> Document:
    """Measure everything below a folder. Raises BenchError when a contender fails, or the two differ."""
    from importlib.metadata import version

    folder = _tokenizer(tokenizer, root / "tokenizer")
    rows, sample = root / "rows.jsonl", root / "sample.jsonl"
    say(f"writing {settings.megabytes:g} MB of rows ...")
    write_rows(rows, settings.megabytes, settings.seed)
    write_rows(sample, settings.sample_megabytes, settings.seed)
    document: Document = {
        "settings": asdict(settings),
        "commit": commit_of(ROOT, MEASURED),
        "machine": describe_hardware() | {name: version(name) for name in LIBRARIES},
        "megabytes": {"all": rows.stat().st_size / MEGABYTE, "sample": sample.stat().st_size / MEGABYTE},
        "all": _turn("ours", Task(str(rows), str(folder), str(root / "all"), settings.processes)),
    }
    shutil.rmtree(root / "all")
    document["turns"] = []
    for number in range(settings.repeats):
        tasks = {
            role: Task(str(sample), str(folder), str(root / f"{role}-{number}"), settings.processes)
            for role in ("ours", "peer")
        }
        order = list(tasks) if number % 2 == 0 else list(reversed(tasks))
        document["turns"].append({role: _turn(role, tasks[role]) for role in order})
        document["equal_rows"] = _compare(tasks["ours"], tasks["peer"])
        for task in tasks.values():
            shutil.rmtree(task.folder)
    return document


def _turn(role: str, task: Task) -> Readings:
    readings = run(role, task)
    say(f"  {role}: {readings['wall_s']:.1f} s, {readings['tokens']:,} tokens, {readings['peak_mb']:.0f} MB")
    return readings


def _tokenizer(source: Path, target: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(target)
    return target


def _compare(mine: Task, theirs: Task) -> int:
    """Return how many rows were compared. Raises BenchError when one has other tokens or flags."""
    found = ours.encoded(mine, _COMPARED)
    wanted = peer.encoded(theirs, sorted(found))
    for line, (ids, flags) in wanted.items():
        if found[line] != (ids, flags):
            raise BenchError(f"row {line}: ours has {found[line]}, the peer {(ids, flags)}")
    return len(wanted)
