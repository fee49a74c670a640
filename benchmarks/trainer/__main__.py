"""`make bench-trainer`: the trainer beside TRL and beside plain PyTorch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "harness"))
sys.path.insert(2, str(Path(__file__).resolve().parents[2] / "dev/loopback"))
sys.path.insert(3, str(Path(__file__).resolve().parents[2] / "dev/quickstart"))

from trainer_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
