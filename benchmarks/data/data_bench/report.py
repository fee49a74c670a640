"""The tables of the README, made from the files of campaigns so that no figure is copied by hand."""

import json
from pathlib import Path
from typing import Any

from bench_harness.tables import with_tables
from data_bench.figures import result_line

TARGETS = {
    "mb_per_s": "",
    "tokens_per_s": "",
    "peak_memory_mb": "at most 2,048",
    "ratio_to_datasets_map": "at least 2",
    "ratio_to_datasets_map_cpu": "",
}
COLUMNS = ("mb_per_s", "tokens_per_s", "wall_s", "cpu_s", "peak_memory_mb")


def tables(folder: Path) -> str:
    """Return the README's tables of every campaign in a folder."""
    lines = [result_line(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(part for line in lines for part in _parts(line)) or "No run is stored yet."


def write_report(readme: Path, folder: Path) -> None:
    """Write the tables into the README."""
    readme.write_text(with_tables(readme.read_text(), tables(folder)))


def _parts(line: dict[str, Any]) -> list[str]:
    machine, sizes = line["machine"], line["megabytes"]
    busy = "" if line["calm"] else " Other programs took more than a tenth of the CPU in some turns."
    title = (
        f"**{sizes['all']:,} MB**, commit {line['commit']}: {line['rows']:,} rows, {line['tokens']:,} tokens;"
        f" the peer on the first {sizes['sample']:,} MB, {line['settings']['repeats']} times in turns with ours;"
        f" {line['settings']['processes']} processes on {machine['cores']} cores of {machine['cpu']}, transformers"
        f" {machine['transformers']}, tokenizers {machine['tokenizers']}, datasets {machine['datasets']}."
        f" {line['equal_rows']:,} rows were compared, and are the same token by token and flag by flag.{busy}"
    )
    spread = {"ratio_to_datasets_map": f" ({line['spread'][0]:g} to {line['spread'][1]:g})"}
    figures = ["| figure | value | target |", "| --- | ---: | ---: |"]
    figures += [
        f"| `{name}` | {_number(line[name])}{spread.get(name, '')} | {target} |" for name, target in TARGETS.items()
    ]
    contenders = [f"| contender | {' | '.join(f'`{name}`' for name in COLUMNS)} |"]
    contenders.append(f"| --- |{' ---: |' * len(COLUMNS)}")
    for role, found in line["contenders"].items():
        contenders.append(f"| {role} | {' | '.join(_number(found[name]) for name in COLUMNS)} |")
    return [title, "\n".join(figures), "\n".join(contenders)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
