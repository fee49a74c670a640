"""The command line: `make bench-data`, or `python benchmarks/data --help`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bench_harness.command import run
from bench_harness.document import leave
from bench_harness.errors import BenchError
from bench_harness.scratch import scratch
from data_bench.campaign import Settings, measure
from data_bench.figures import result_line
from data_bench.report import write_report
from quickstart.model import build_model

HERE = Path(__file__).resolve().parents[1]
RESULTS = HERE / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the readings, end in one line of JSON; return the exit code."""
    options = _parser().parse_args(arguments)
    return run("bench-data", lambda: _work(options), failure=BenchError)


def _work(options: argparse.Namespace) -> int:
    if options.report:
        write_report(HERE / "README.md", RESULTS)
        return 0
    sample = min(options.size, options.sample)
    settings = Settings(options.size, sample, options.repeats, options.processes, options.seed)
    file: Path = options.out or RESULTS / f"{options.size:g}mb.json"
    with scratch("bench-data-") as root:
        document = measure(settings, options.tokenizer or build_model(), root)
    leave(document, file, line=result_line(document))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench-data", description=__doc__)
    parser.add_argument("--size", type=float, default=2000, help="megabytes of rows for ours (2000)")
    parser.add_argument("--sample", type=float, default=200, help="megabytes, the first of them, for both (200)")
    parser.add_argument("--repeats", type=int, default=3, help="passes over the sample per contender, in turns (3)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of each contender (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows (0)")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer (SmolLM2's)")
    parser.add_argument("--out", type=Path, help="file of the readings (results/<size>mb.json)")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the README from results/")
    return parser
