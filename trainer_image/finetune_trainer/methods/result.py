"""What a method leaves for the export."""

from typing import Literal

Result = Literal["adapter", "model"]
"""An adapter beside the base model, or a whole model."""
