"""`make quickstart`: from a bare machine to a fine-tuned model, with the product as a company would install it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from quickstart.steps import StepError
from quickstart.tour import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except StepError as failure:
        sys.exit(f"quickstart: {failure}")
