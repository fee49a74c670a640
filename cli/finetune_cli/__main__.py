"""Entry of `finetune` and `kubectl finetune`."""

import argparse
import sys
from collections.abc import Sequence

from finetune_cli.watch import watch_job


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="finetune", description="Work with FineTuneJobs.")
    commands = parser.add_subparsers(dest="command", required=True)
    watch = commands.add_parser("watch", help="follow a job until it ends; exit code 1 when it failed")
    watch.add_argument("name", help="name of the FineTuneJob")
    watch.add_argument("-n", "--namespace", default="default", help="its namespace (default: default)")
    watch.add_argument("--timeout", type=float, default=86400, help="give up after so many seconds (exit code 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    return watch_job(name=options.name, namespace=options.namespace, timeout=options.timeout)


if __name__ == "__main__":
    sys.exit(main())
