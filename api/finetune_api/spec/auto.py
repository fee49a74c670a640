"""The word that hands a choice to the product."""

from typing import Literal

Auto = Literal["auto"]
"""What it became stands in `status.plan`."""
