"""What is done about personal data in a row: told, replaced, or the row left out."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from finetune_api.spec import Pii
from finetune_trainer.prepare.pii.find import Finder
from finetune_trainer.prepare.pii.masking import RowMask


@dataclass
class PiiCounts:
    """What was found in all rows; never what it was."""

    places: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    dropped: int = 0

    def add(self, other: "PiiCounts") -> None:
        """Add what was found in other rows."""
        self.places.update(other.places)
        self.rows += other.rows
        self.dropped += other.dropped


class Privacy:
    """Applies `spec.data.pii` to rows."""

    def __init__(self, settings: Pii) -> None:
        self._action = settings.action
        self._finder = Finder(settings.kinds, settings.region)
        self.counts = PiiCounts()

    def apply(self, columns: dict[str, Any]) -> dict[str, Any] | None:
        """Return the columns of a row as they may be used; None: not at all."""
        if self._action == "none":
            return columns
        mask = RowMask(self._finder)
        masked = mask.row(columns)
        if not mask.found:
            return columns
        self.counts.places.update(mask.found)
        self.counts.rows += 1
        if self._action == "drop":
            self.counts.dropped += 1
            return None
        return masked if self._action == "mask" else columns
