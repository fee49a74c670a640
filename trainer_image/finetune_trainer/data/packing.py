"""Packing: which rows share a sequence of at most `max_length` tokens, and in which order an epoch reads them.

Best-fit decreasing: rows from long to short, each into the fullest bin that still takes it. The number of bins
depends on the lengths alone, so every epoch has the same number of sequences. What differs between epochs, by
(seed, epoch), is the order of the bins and which of several rows of equal length sits in which bin.
"""

from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bins:
    """The sequences of one epoch in reading order: bin i holds rows[offsets[i]:offsets[i + 1]]."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Sequences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Return the rows of one sequence."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[self.offsets[index] : self.offsets[index + 1]]


def plan(lengths: NDArray[np.int64], max_length: int, *, seed: int, epoch: int, packing: bool) -> Bins:
    """Return the sequences of an epoch: every row once, no bin over `max_length` tokens.

    Without packing every row is a sequence of its own. Raises ValueError when a row is longer than `max_length`.
    """
    if len(lengths) and int(lengths.max()) > max_length:
        raise ValueError(f"a row has {int(lengths.max())} tokens, more than maxLength {max_length}")
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    if not packing:
        return Bins(order, np.arange(len(lengths) + 1, dtype=np.int64))
    # Stable, so that rows of equal length keep their shuffled order.
    descending = order[np.argsort(-lengths[order], kind="stable")]
    bin_of = _best_fit(lengths[descending], max_length)
    count = int(bin_of.max(initial=-1)) + 1
    place = np.empty(count, np.int64)
    place[rng.permutation(count)] = np.arange(count)
    places = place[bin_of]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(places, minlength=count))])
    return Bins(descending[np.argsort(places, kind="stable")], offsets)


def _best_fit(lengths: NDArray[np.int64], max_length: int) -> NDArray[np.int64]:
    """Return the bin of each row: the one with the least room that suffices; O(log max_length) a row to find it."""
    bin_of = array("q")
    bins = 0
    by_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # ascending, the keys of by_room
    for length in lengths.data:  # number by number: a list of them would take five times the memory
        at = bisect_left(rooms, length)
        if at == len(rooms):
            index, room = bins, max_length
            bins += 1
        else:
            room = rooms[at]
            index = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        bin_of.append(index)
        left = room - length
        if left not in by_room:
            insort(rooms, left)
        by_room[left].append(index)
    return np.frombuffer(bin_of, np.int64) if bin_of else np.empty(0, np.int64)
