"""`make bench-operator`: the operator beside a peer and beside plain Jobs, at the scale of a platform."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "dev/loopback"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "harness"))
sys.path.insert(2, str(Path(__file__).resolve().parents[2] / "dev/cluster"))

from operator_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
