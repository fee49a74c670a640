"""The command line: `make bench-trainer`, or `python benchmarks/trainer --help`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bench_harness.command import run
from bench_harness.document import leave
from bench_harness.scratch import scratch
from quickstart.model import build_model
from quickstart.steps import StepError
from trainer_bench.campaign import Campaign, Settings
from trainer_bench.figures import result_line
from trainer_bench.report import write_report
from trainer_bench.task import METHODS, MethodName

HERE = Path(__file__).resolve().parents[1]
RESULTS = HERE / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the readings, end in one line of JSON; return the exit code."""
    options = _parser().parse_args(arguments)
    return run("bench-trainer", lambda: _work(options), failure=StepError)


def _work(options: argparse.Namespace) -> int:
    if options.report:
        write_report(HERE / "README.md", RESULTS)
        return 0
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    settings = Settings(options.methods, options.precision, options.steps, options.repeats, options.threads)
    file: Path = options.out or RESULTS / f"{options.precision}.json"
    with scratch("bench-trainer-") as root:
        document = Campaign(settings, build_model(), root).run()
    leave(document, file, line=result_line(document))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench-trainer", description=__doc__)
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps per pass, of 8 rows each (1)")
    parser.add_argument(
        "--repeats", type=int, default=4, help="passes over the rows per contender, in turns; the first warms up (4)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="number format (fp32)")
    parser.add_argument("--methods", type=_names, default=list(METHODS), help=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each contender (all cores)")
    parser.add_argument("--out", type=Path, help="file of the readings (results/<precision>.json)")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the README from results/")
    return parser


def _names(text: str) -> list[MethodName]:
    names = [method for method in METHODS if method in text.split(",")]
    if len(names) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: the methods are {', '.join(METHODS)}")
    return names
