"""The command line: `make bench-operator`, or `python benchmarks/operator --help`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench_harness.command import run
from finetune_loopback.processes import ServerError
from operator_bench.campaign import Campaign, result_line
from operator_bench.contender import Contender
from operator_bench.floor import FLOOR, FLOOR3
from operator_bench.ours import OURS
from operator_bench.peer import PEER_DEFAULT, PEER_TUNED
from operator_bench.profile import top_functions
from operator_bench.report import write_report
from operator_bench.run import Plan

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parents[1]
RESULTS = HERE / "results"
CONTENDERS: dict[str, Contender] = {one.name: one for one in (OURS, PEER_DEFAULT, PEER_TUNED, FLOOR, FLOOR3)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the runs, end in one line of JSON; return the exit code."""
    options = _parser().parse_args(arguments)
    farewell = "told to end; finished runs are kept"
    return run("bench-operator", lambda: _work(options), failure=ServerError, farewell=farewell)


def _work(options: argparse.Namespace) -> int:
    if options.report:
        write_report(HERE / "README.md", RESULTS)
        return 0
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    profile = options.profile.resolve() if options.profile else None
    plan = Plan(
        jobs=options.jobs,
        raised=options.limits == "raised",
        source=options.source.resolve(),
        idle_seconds=options.idle_seconds,
        profile=profile,
    )
    names = ["ours"] if profile else options.contenders
    file = options.out or RESULTS / f"{options.limits}-{options.jobs}.json"
    campaign = Campaign([CONTENDERS[name] for name in names], plan, options.repeats, options.tries, file)
    document = campaign.run()
    if profile:
        kept = f"nothing was profiled: {file} holds the runs already; name another file with --out"
        print(top_functions(profile) if profile.exists() else kept)
    line = result_line(document)
    print(json.dumps(line))
    return 0 if all(line.get(name, {}).get("runs") == options.repeats for name in names) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench-operator", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs per run (1000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs per contender, in turns (3)")
    parser.add_argument("--tries", type=int, default=3, help="runs per repeat while others keep the CPU busy (3)")
    parser.add_argument("--contenders", type=_names, default=list(CONTENDERS), help=",".join(CONTENDERS))
    parser.add_argument(
        "--limits", choices=("raised", "default"), default="raised", help="of kube-controller-manager and scheduler"
    )
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="checkout of ours that is measured")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="length of the idle window (60)")
    parser.add_argument("--out", type=Path, help="file of runs: those in it are not done again (results/...)")
    parser.add_argument("--profile", type=Path, help="sample our operator into this file; needs --out of its own")
    parser.add_argument("--report", action="store_true", help="measure nothing: README and plots from results/")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the contenders are {', '.join(CONTENDERS)}")
    return names
