"""Which rows train, which validate and which test.

Rows are split by a hash of their content, so that a row never moves when others are added or reordered, and exact
duplicates always land in the same split. Lists that the user gives win over the shares.
"""

from dataclasses import dataclass
from hashlib import sha256

from finetune_api.spec import Data, Split
from finetune_trainer.data.cache import SplitName


@dataclass(frozen=True)
class Shares:
    """Shares of the training rows that are split off; 0 for a split that has a list of its own."""

    validation: float
    test: float
    seed: int


def shares_of(data: Data) -> Shares:
    """Return the shares that apply to a job's data."""
    split = data.split or Split()
    return Shares(
        validation=0 if data.validation else split.validation,
        test=0 if data.test else split.test,
        seed=split.seed,
    )


def assign(row: bytes, shares: Shares) -> SplitName:
    """Return the split of a normalised row."""
    digest = sha256(f"{shares.seed}:".encode() + row).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"
