"""Packing: which rows share a sequence of at most `max_length` tokens, and in which order an epoch reads them.

Best-fit decreasing: rows from long to short, each into the fullest bin that still takes it. The number of bins
depends on the lengths alone, so every epoch has the same number of sequences. What differs between epochs, by
(seed, epoch), is the order of the bins and which of several rows of equal length sits in which bin.
"""

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
    bins = _best_fit(descending, lengths, max_length)
    shuffled = [bins[index] for index in rng.permutation(len(bins))]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(rows) for rows in shuffled], dtype=np.int64)])
    return Bins(np.asarray([row for rows in shuffled for row in rows], np.int64), offsets)


def _best_fit(order: NDArray[np.int64], lengths: NDArray[np.int64], max_length: int) -> list[list[int]]:
    """Put each row into the bin with the least room that suffices; O(log max_length) a row to find it."""
    bins: list[list[int]] = []
    by_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # ascending, the keys of by_room
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            index, room = len(bins), max_length
            bins.append([])
        else:
            room = rooms[at]
            index = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        bins[index].append(row)
        left = room - length
        if left not in by_room:
            insort(rooms, left)
        by_room[left].append(index)
    return bins
