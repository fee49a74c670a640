"""Which of the rows that were encoded are used, and how often: decided when all of them are known.

Rows are in the order of `LISTS`: those of test, of validation, of training, and those to replay. Of rows that are the
same, the first one counts as the row and the others as its repeats. So a training row that is a test row is always a
repeat of that one, wherever the two were read.

    repeats in another split   left out of the later one, always: a model scored on rows that it has learned by heart,
                               or that told when to stop, tells nothing. A list that is given by itself keeps its rows
                               unless duplicates are asked to be left out.
    repeats in the same split  left out with spec.data.deduplicate: exact or near, else kept and counted
    weights                    a training row is repeated as often as its source's weight says (`sampling.py`)
    replay                     of the rows to replay so many are taken that they are `fraction` of all training rows
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_api.spec import Data
from finetune_trainer.prepare.sampling import replayed
from finetune_trainer.prepare.sources import LISTS, ListName

_TRAIN = LISTS.index("train")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """What is remembered of the rows of one list, in the order they were read."""

    digests: NDArray[np.uint64]
    """[R, 2]: the first 16 bytes of the SHA-256 of the normalised row."""
    copies: NDArray[np.uint8]
    """[R]: how often an epoch reads the row, by the weight of its source."""
    samples: NDArray[np.uint64]
    """[R] of rows to replay, else [0]: place in the sample."""


@dataclass(frozen=True)
class Selection:
    """The rows of each list that are used, by number and with repeats."""

    rows: dict[ListName, Rows] = field(default_factory=dict)
    duplicates: int = 0
    """Training rows, those to replay included, that repeat an earlier one of them."""
    leaked: int = 0
    """Those left out because they stand in validation or test."""
    held_out_repeats: int = 0
    """Rows of validation and test that repeat an earlier one of either."""
    replay_missing: int = 0
    """Rows that there would have to be more to replay."""

    def is_all(self, name: ListName, rows: int) -> bool:
        """Whether every one of so many rows is used, once."""
        return len(self.rows[name]) == rows and bool((self.rows[name] == np.arange(rows)).all())


def firsts(digests: NDArray[np.uint64]) -> Rows:
    """Return for each row the first one that is the same: itself, mostly."""
    count = len(digests)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal rows stay in order
    is_begin = np.ones(count, np.bool_)
    is_begin[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    first = np.empty(count, np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_begin, np.arange(count), 0))]
    return first


def select(known: Mapping[ListName, Known], first: Rows, data: Data) -> Selection:
    """Choose the rows of all lists; `first` has, over all of them in order, the first row that each repeats."""
    sizes = [len(known[name].digests) for name in LISTS]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    part = np.repeat(np.arange(len(LISTS), dtype=np.int8), sizes)
    repeats = np.flatnonzero(first != np.arange(len(first)))
    own, other = part[repeats], part[first[repeats]]
    is_given = np.asarray([bool(data.test), bool(data.validation), False, False])
    is_across = np.minimum(own, _TRAIN) != np.minimum(other, _TRAIN)  # rows to replay are training rows
    is_dropped = is_across & ~is_given[own] if data.deduplicate == "none" else np.ones(len(repeats), np.bool_)
    kept = np.ones(len(first), np.bool_)
    kept[repeats[is_dropped]] = False
    rows = {name: np.flatnonzero(kept[bounds[at] : bounds[at + 1]]) for at, name in enumerate(LISTS)}
    rows["train"] = np.repeat(rows["train"], known["train"].copies[rows["train"]])
    wanted = replayed(len(rows["train"]), data.replay.fraction) if data.replay else 0
    rows["replay"] = _sample(known["replay"].samples, rows["replay"], wanted)
    return Selection(
        rows=rows,
        duplicates=int(((own >= _TRAIN) & (other >= _TRAIN)).sum()),
        leaked=int(((own >= _TRAIN) & (other < _TRAIN)).sum()),
        held_out_repeats=int((own < _TRAIN).sum()),
        replay_missing=wanted - len(rows["replay"]),
    )


def _sample(places: NDArray[np.uint64], rows: Rows, wanted: int) -> Rows:
    """Return the rows with the lowest places, in their order."""
    return np.sort(rows[np.argsort(places[rows], kind="stable")[:wanted]])
