"""What became of the rows of a block: what is wrong with some of them, and the others as arrays.

It is what passes between processes, so it holds numbers and few objects.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.cache import SplitName
from finetune_trainer.prepare.blocks import Block
from finetune_trainer.prepare.pii.policy import PiiCounts
from finetune_trainer.prepare.problems import Place, RowError
from finetune_trainer.prepare.sources import Source


@dataclass(frozen=True)
class EncodedRows:
    """R rows of one list that become P rows of the token cache (documents become several) and T tokens."""

    source: Source
    file: str
    unit: str
    """As in places."""
    lines: NDArray[np.int64]
    """[R]: numbers of the rows in their file."""
    digests: NDArray[np.uint64]
    """[R, 2]: the first 16 bytes of the SHA-256 of the normalised row."""
    copies: NDArray[np.uint8]
    """[R]: how often an epoch reads the row."""
    samples: NDArray[np.uint64]
    """[R] of rows to replay, else [0]."""
    sketches: NDArray[np.uint32]
    """[R, numbers] where near duplicates are looked for, else [0, 0]."""
    pieces: NDArray[np.int32]
    """[R]: rows of the cache."""
    labels: list[str]
    """[R] where rows have labels, else empty."""
    test_rows: list[str]
    """[R] of test rows, as lines of JSON, else empty."""
    lengths: NDArray[np.int64]
    """[P]: tokens."""
    input_ids: NDArray[np.uint32]
    """[T]."""
    supervised: NDArray[np.uint8]
    """[T]."""


@dataclass
class EncodedBlock:
    """What became of the rows of a block."""

    block: Block
    """Without its content."""
    read: int = 0
    problems: list[tuple[Place, RowError]] = field(default_factory=list)
    """In the order of the rows."""
    pii: PiiCounts = field(default_factory=PiiCounts)
    too_long: Counter[SplitName] = field(default_factory=Counter)
    truncated: int = 0
    cut: int = 0
    """Documents that became several rows."""
    longest: int = 0
    """Tokens of the longest row, kept or not."""
    unsampled: int = 0
    """Rows that no epoch reads, by the weight of their source."""
    endless: int = 0
    """Rows with an answer that no special token ends; of those that are not too long."""
    rows: dict[SplitName, EncodedRows] = field(default_factory=dict)
    """By the split they go to; rows to replay are training rows here."""
