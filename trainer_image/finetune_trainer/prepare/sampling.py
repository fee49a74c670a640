"""Which rows of a source an epoch reads, and how often.

A hash of the row tells, so that nothing changes for a row when others are added.

The place of a row is the first eight bytes of SHA-256("<seed>:sample:" + row) as a number from 0 to 2**64 - 1, where
the row is the normalised one (`formats.canonical`). A row of a source with weight w is read floor(w) times, and once
more if its place is below (w - floor(w)) x 2**64. Of the rows to replay those with the lowest places are taken.
"""

from hashlib import sha256
from math import floor

PLACES = 2**64


def place_of(row: bytes, seed: int) -> int:
    """Return the place of a normalised row."""
    return int.from_bytes(sha256(f"{seed}:sample:".encode() + row).digest()[:8], "big")


def copies_of(place: int, weight: float) -> int:
    """Return how often an epoch reads a row of a source with this weight."""
    return floor(weight) + (place < (weight - floor(weight)) * PLACES)


def replayed(rows: int, fraction: float) -> int:
    """Return how many rows make `fraction` of all when they are added to so many."""
    return round(rows * fraction / (1 - fraction))
