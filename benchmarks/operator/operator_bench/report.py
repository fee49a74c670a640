"""The tables and plots of the README, made from the files of runs so that no figure is copied by hand."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench_harness.tables import with_tables
from operator_bench.campaign import result_line
from operator_bench.figures import FIGURES, Figures
from operator_bench.plot import COLOURS, draw

ORDER = ("ours", "peer_tuned", "peer_default", "floor3", "floor")
COLUMNS = (*FIGURES, "idle_cpu_percent")
TITLES = {
    "raised": "Raised limits of kube-controller-manager and kube-scheduler",
    "default": "Default limits of kube-controller-manager and kube-scheduler",
}

Results = dict[str, dict[int, dict[str, Any]]]


def read_results(folder: Path) -> Results:
    """Return the summaries by limits and number of jobs."""
    found: Results = {limits: {} for limits in TITLES}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        found[document["limits"]][document["jobs"]] = result_line(document)
    return {limits: dict(sorted(by_jobs.items())) for limits, by_jobs in found.items() if by_jobs}


def tables(results: Results) -> str:
    """Return the README's tables: medians, with least and greatest where they differ."""
    parts = []
    for limits, by_jobs in results.items():
        parts += [f"### {TITLES[limits]}", f"![{TITLES[limits]}](results/{limits}.svg)"]
        for jobs, summary in by_jobs.items():
            machine = summary["machine"]
            parts += [f"**{jobs:,} jobs**, {machine['cores']} cores of {machine['cpu']}", _table(summary)]
    return "\n\n".join(parts)


def write_report(readme: Path, folder: Path) -> None:
    """Write the plots beside the runs, and the tables into the README. Raises BenchError when it lacks the marks."""
    results = read_results(folder)
    for limits, by_jobs in results.items():
        lines = {who: {jobs: one[who] for jobs, one in by_jobs.items() if who in one} for who in COLOURS}
        drawn = draw(TITLES[limits], {who: line for who, line in lines.items() if line})
        (folder / f"{limits}.svg").write_text(drawn)
    readme.write_text(with_tables(readme.read_text(), tables(results)))


def _table(summary: dict[str, Any]) -> str:
    present = [who for who in ORDER if who in summary]
    lines = [_row("figure", present), _row("---", ["---:"] * len(present))]
    lines += [_row(f"`{name}`", [_cell(summary[who], name) for who in present]) for name in COLUMNS]
    lines += [_row("runs", [_runs(summary[who]) for who in present])]
    return "\n".join(lines)


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _cell(one: Figures, name: str) -> str:
    middle, (least, greatest) = _number(one[name]), one["spread"][name]
    ends = [_number(least), _number(greatest)]
    return middle if set(ends) == {middle} else f"{middle} ({ends[0]} to {ends[1]})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _runs(one: Figures) -> str:
    return f"{one['runs']}{'' if one['calm'] else ' (busy machine)'}"
