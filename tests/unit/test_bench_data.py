"""The benchmark of data: its rows, its arithmetic, and its README."""

import json
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from bench_harness.tables import with_tables
from data_bench.figures import result_line
from data_bench.report import tables
from data_bench.rows import lines, write_rows


def test_rows_are_the_same_for_a_seed(tmp_path: Path) -> None:
    count = write_rows(tmp_path / "rows", 0.2, seed=3)
    written = (tmp_path / "rows").read_bytes()
    assert len(written) >= 200_000
    assert b"".join(islice(lines(3), count)) == written
    assert next(lines(4)) != next(lines(3))


def test_rows_are_chats_of_all_lengths_and_some_repeat() -> None:
    found = list(islice(lines(0), 3000))
    rows = [json.loads(line) for line in found]
    sizes = [sum(len(turn["content"]) for turn in row["messages"]) for row in rows]
    assert max(sizes) > 5 * median(sizes)
    assert 30 < len(found) - len(set(found)) < 90
    roles = {tuple(turn["role"] for turn in row["messages"]) for row in rows}
    assert {("user", "assistant"), ("system", "user", "assistant")} <= roles
    assert all(turn["content"].strip() for row in rows for turn in row["messages"])


def readings(wall: float, *, peak: float = 900.0, others: float = 1.0, tokens: int = 4000) -> dict[str, Any]:
    told = {"wall_s": wall, "cpu_s": 2 * wall, "peak_mb": peak, "others_cpu_percent": others}
    return {**told, "tokens": tokens, "read": 100, "rows": 98, "duplicates": 2}


@pytest.fixture
def document() -> dict[str, Any]:
    walls = [(2.0, 5.0), (2.0, 4.0), (1.0, 5.0)]
    return {
        "settings": {"repeats": 3, "processes": 2},
        "commit": "abc",
        "machine": {"cpu": "X", "cores": 2, "transformers": "5", "tokenizers": "0", "datasets": "5"},
        "megabytes": {"all": 100.0, "sample": 10.0},
        "all": readings(20.0, tokens=40_000, peak=1000.4),
        "turns": [{"ours": readings(mine), "peer": readings(theirs, peak=1500)} for mine, theirs in walls],
        "equal_rows": 300,
    }


def test_the_line_tells_speed_memory_and_the_ratio(document: dict[str, Any]) -> None:
    line = result_line(document)
    assert (line["mb_per_s"], line["tokens_per_s"], line["peak_memory_mb"]) == (5.0, 2000, 1000)
    assert (line["ratio_to_datasets_map"], line["spread"]) == (2.5, [2.0, 5.0])
    assert line["contenders"]["peer"] == {
        "mb_per_s": 2.0,
        "tokens_per_s": 800,
        "wall_s": 5.0,
        "cpu_s": 10.0,
        "peak_memory_mb": 1500,
    }
    assert line["calm"] is True


def test_a_turn_among_others_is_no_calm_one(document: dict[str, Any]) -> None:
    document["turns"][1]["peer"]["others_cpu_percent"] = 30.0
    assert result_line(document)["calm"] is False


def test_the_tables_have_the_figures(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "100mb.json").write_text(json.dumps(document))
    made = tables(tmp_path)
    assert "| `ratio_to_datasets_map` | 2.5 (2 to 5) | at least 2 |" in made
    assert "| peer | 2 | 800 | 5 | 10 | 1,500 |" in made


def test_the_readme_shows_the_figures_of_the_runs() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/data"
    text = (folder / "README.md").read_text()
    assert with_tables(text, tables(folder / "results")) == text
