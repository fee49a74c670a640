"""`make bench-data`: preparing rows beside `datasets.map`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "harness"))
sys.path.insert(2, str(Path(__file__).resolve().parents[2] / "dev/quickstart"))

if __name__ == "__main__":
    from data_bench.cli import main

    sys.exit(main())
