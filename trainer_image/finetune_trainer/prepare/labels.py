"""Labels: from the names in the rows to class ids.

Which labels there are is known only when all rows were read, unless the spec lists them. Until then a label has the
number of its first appearance; at the end the numbers in the cache are replaced by the class ids: the place in the
spec's list, else in the sorted labels of the training rows (by value where all are whole numbers).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from finetune_api.run import Classes
from finetune_api.status import ClassReport
from finetune_trainer.data.cache import SPLITS, SplitName, classes_of, renumber_classes
from finetune_trainer.prepare.problems import Place, RowError, invalid_data, is_name

MOST_CLASSES = 1000
_REPORTED = 20
"""Classes in the status: its record, and the last word of a pod, are small."""


@dataclass
class _Seen:
    number: int
    first: Place | None = None
    rows: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def require_listed(label: str, listed: Sequence[str]) -> None:
    """Raise RowError when the spec lists labels and this is none of them."""
    if listed and label not in listed:
        shown = ", ".join(map(repr, listed[:5])) + (", ..." if len(listed) > 5 else "")
        raise RowError("label", f"is {_shown(label)}, which spec.data.labels does not list ({shown})")


def _shown(label: str) -> str:
    """Return how a message calls a label of a row: what is no plain word may be another column's value."""
    return repr(label) if is_name(label) else "one"


class Labels:
    """The labels of a data set while it is read."""

    def __init__(self, given: Sequence[str]) -> None:
        self._given = list(dict.fromkeys(given))
        self._seen = {label: _Seen(number) for number, label in enumerate(self._given)}

    def number(self, label: str, place: Place) -> int:
        """Return the number that the label of a row has until `settle`.

        Raises StageFailure when there are too many labels.
        """
        seen = self._seen.setdefault(label, _Seen(len(self._seen)))
        if len(self._seen) > MOST_CLASSES:
            raise invalid_data(
                f"{place}: label: this is the {len(self._seen)}th different one, and at most {MOST_CLASSES} can be"
                " told apart; is the column a number or a text of its own for each row?"
            )
        seen.first = seen.first or place
        return seen.number

    def count(self, directory: Path) -> None:
        """Count the rows of each label in a cache folder that has their numbers."""
        for split in SPLITS:
            counts = np.bincount(classes_of(directory, split), minlength=len(self._seen))
            for seen in self._seen.values():
                seen.rows[split] = int(counts[seen.number])
        if not self._given:  # of rows that were left out
            self._seen = {label: seen for label, seen in self._seen.items() if any(seen.rows.values())}

    def problems(self) -> Iterator[tuple[Place, RowError]]:
        """Yield the first row of each label that no training row has, with what is wrong with it."""
        for label, seen in self._seen.items():
            if seen.first is not None and not seen.rows["train"]:
                yield (
                    seen.first,
                    RowError(
                        "label",
                        f"is {_shown(label)}, which no training row has ({sum(seen.rows.values())} of validation and"
                        " test have it), so it cannot be learned; add training rows of it, or remove these",
                    ),
                )

    def require_classes(self) -> None:
        """Raise StageFailure when there is nothing to tell apart, or a listed label has no rows."""
        without = [label for label in self._given if not self._seen[label].rows["train"]]
        if without:
            shown = ", ".join(map(repr, without[:5]))
            raise invalid_data(
                f"spec.data.labels lists {shown}, of which there are no training rows; add some or unlist"
            )
        if len(self._seen) < 2:
            label = _shown(next(iter(self._seen)))
            raise invalid_data(
                f"the label of all training rows is {label}: a single class leaves nothing to tell apart; add rows of"
                " others"
            )

    def order(self) -> list[str]:
        """Return the labels by class id."""
        if self._given:
            return self._given
        if all(label.isdecimal() for label in self._seen):
            return sorted(self._seen, key=lambda label: (int(label), label))
        return sorted(self._seen)

    def settle(self, directory: Path, *, pad_token_id: int) -> Classes:
        """Replace the numbers in a cache folder by class ids, and return the classes."""
        order = self.order()
        new = np.zeros(1 + max(seen.number for seen in self._seen.values()), np.int32)
        for place, label in enumerate(order):
            new[self._seen[label].number] = place
        for split in SPLITS:
            renumber_classes(directory, split, new)
        rows = [self._seen[label].rows["train"] for label in order]
        return Classes(labels=order, rows=rows, pad_token_id=pad_token_id)

    def report(self) -> list[ClassReport]:
        """Return the rows of the most frequent labels, in the order of their class ids."""
        frequent = sorted(self._seen, key=lambda label: -self._seen[label].rows["train"])[:_REPORTED]
        return [ClassReport(label=label, **self._seen[label].rows) for label in self.order() if label in frequent]
