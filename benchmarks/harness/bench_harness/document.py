"""What a benchmark leaves: its readings in a file, and one line of JSON on standard output."""

import json
from pathlib import Path
from typing import Any


def leave(document: dict[str, Any], file: Path, *, line: dict[str, Any]) -> None:
    """Write the readings into a file and print the line that sums them up."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(line))
