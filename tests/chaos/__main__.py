"""`make chaos SEED=1 ROUNDS=50`: rounds of seeded faults against the local cluster; exit code 1 on a violation."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("tests/chaos", "tests/support", "dev/cluster", "dev/quickstart")]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from finetune_chaos.deck import FAULTS

    top = argparse.ArgumentParser(prog="python tests/chaos", description="Chaos on the local cluster.")
    top.add_argument("--seed", type=int, default=1, help="what is dealt; the same seed deals the same rounds")
    top.add_argument("--rounds", type=int, default=50, help="how many rounds")
    top.add_argument("--only", type=int, nargs="*", default=[], help="play these rounds of the seed alone")
    top.add_argument("--fault", choices=sorted(FAULTS), action="append", help="deal these faults alone")
    return top


def main() -> int:
    """Play the rounds. Returns 1 when an invariant was violated."""
    from finetune_chaos.deck import FAULTS, deal
    from finetune_chaos.session import opened_arena, play_all, tell_json

    arguments = parser().parse_args()
    faults = [FAULTS[name] for name in arguments.fault or FAULTS]
    rounds = deal(arguments.seed, arguments.rounds, faults)
    chosen = [one for one in rounds if not arguments.only or one.number in arguments.only]
    with opened_arena() as arena:
        closing = play_all(arena, chosen, tell_json)
    tell_json({"seed": arguments.seed, **closing})
    return 1 if closing["violations"] else 0


if __name__ == "__main__":
    if "KUBECONFIG" not in os.environ:
        sys.exit("KUBECONFIG is not set; run `make chaos`")
    sys.exit(main())
