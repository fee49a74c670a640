"""Write the CustomResourceDefinition from the models: crds/finetunejobs.yaml and the chart's copy.

`python dev/generate_crd.py` writes both; with `--check` it writes nothing and exits 1 when one of them is stale.
"""

import argparse
import sys
from pathlib import Path

import yaml

from finetune_api.crd import build_crd

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (ROOT / "crds/finetunejobs.yaml", ROOT / "charts/finetune-operator/files/finetunejobs.yaml")
HEADER = "# Generated from api/finetune_api by `make generate`; do not edit.\n"


def render() -> str:
    """Return the YAML text of the CustomResourceDefinition."""
    return HEADER + yaml.safe_dump(build_crd(), sort_keys=False, width=116, allow_unicode=True)


def stale() -> list[Path]:
    """Return the files that differ from what the models say, or are missing."""
    text = render()
    return [path for path in TARGETS if not path.is_file() or path.read_text() != text]


def main() -> int:
    """Write or check the files. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    check = parser.parse_args().check
    for path in stale():
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale; run `make generate`\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render())
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 1 if check and stale() else 0


if __name__ == "__main__":
    sys.exit(main())
