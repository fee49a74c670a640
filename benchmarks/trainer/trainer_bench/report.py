"""The tables of the README and of docs/methods.md, made from the file of a campaign: no figure is copied by hand."""

import json
from pathlib import Path
from typing import Any

from bench_harness.tables import with_tables
from trainer_bench.figures import result_line

TARGETS = {
    "lora_ratio_vs_trl_packed": "at least 1.7",
    "lora_ratio_vs_trl_default": "at least 5",
    "full_ratio_vs_trl_packed": "at least 1.5",
    "qlora_ratio_vs_trl_packed": "",
    "peak_memory_ratio": "at most 1",
    "loop_overhead_pct": "below 3",
    "loss_gap": "below 0.001",
}
METHODS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"
COLUMNS = ("supervised_tokens_per_s", "tokens_per_s", "wall_s", "cpu_s", "peak_mb", "held_out_loss")


def tables(folder: Path) -> str:
    """Return the README's tables of every campaign in a folder."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(part for document in documents for part in _parts(document)) or "No run is stored yet."


def measured(folder: Path) -> str:
    """Return the table of what each method took in the campaign in fp32, for people who choose one."""
    document = json.loads((folder / "fp32.json").read_text())
    heads = ("method", "trained", "tokens/s", "times TRL packed", "memory", "of TRL's", "loss on rows held out")
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    line = result_line(document)
    for method, found in line["contenders"].items():
        ours, peer = found["ours"], found["trl_packed"]
        plan = document["methods"][method]["ours"]["end"]["plan"]
        cells = (
            f"`{method}`",
            f"{plan['trainableParameters'] / 1e6:.1f} M",
            _number(ours["tokens_per_s"]),
            f"{line[f'{method}_ratio_vs_trl_packed']:.1f}",
            f"{ours['peak_mb'] / 1024:.1f} GiB",
            f"{ours['peak_mb'] / peer['peak_mb']:.2f}",
            _number(ours["held_out_loss"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_report(readme: Path, folder: Path) -> None:
    """Write the tables into the README and the page about methods."""
    for page, made in ((readme, tables(folder)), (METHODS_PAGE, measured(folder))):
        page.write_text(with_tables(page.read_text(), made))


def _parts(document: dict[str, Any]) -> list[str]:
    line = result_line(document)
    return [_title(line), _headline(line), _contenders(line)]


def _title(line: dict[str, Any]) -> str:
    settings, machine, rows = line["settings"], line["machine"], line["rows"]
    warm_up = ", the first to warm up" if settings["repeats"] > 1 else ""
    busy = "" if line["calm"] else " Other programs took more than a tenth of the CPU in some turns."
    return (
        f"**{settings['precision']}**, commit {line['commit']}: {settings['repeats']} passes of {settings['steps']}"
        f" steps each{warm_up}, over {rows['rows']} rows ({rows['tokens']:,} tokens,"
        f" {rows['supervised_tokens']:,} of them"
        f" supervised; {rows['shortest']} to {rows['longest']} tokens a row, median {rows['median']};"
        f" {100 * rows['padding_share']:.0f} % padding in batches of eight), {settings['threads']} threads of"
        f" {machine['cpu']}, torch {machine['torch']}, transformers {machine['transformers']}, TRL {machine['trl']}."
        f"{busy}"
    )


def _headline(line: dict[str, Any]) -> str:
    lines = ["| figure | value | by CPU seconds | target |", "| --- | ---: | ---: | ---: |"]
    for name, target in TARGETS.items():
        cpu = line.get(f"{name}_cpu")
        lines.append(f"| `{name}` | {_spread(line, name)} | {_number(cpu)} | {target} |")
    return "\n".join(lines)


def _contenders(line: dict[str, Any]) -> str:
    lines = [f"| method | contender | {' | '.join(f'`{name}`' for name in COLUMNS)} |"]
    lines.append(f"| --- | --- |{' ---: |' * len(COLUMNS)}")
    for method, found in line["contenders"].items():
        for who, figures in found.items():
            cells = " | ".join(_number(figures[name]) for name in COLUMNS)
            lines.append(f"| {method} | {who} | {cells} |")
    return "\n".join(lines)


def _spread(line: dict[str, Any], name: str) -> str:
    middle, spread = _number(line[name]), line["spread"].get(name)
    return middle if spread is None else f"{middle} ({_number(spread[0])} to {_number(spread[1])})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
