"""Batches: the rows of one micro-batch as one run of tokens with explicit boundaries and no padding at all.

The sequences of a step are dealt to the processes by their length, so that all have nearly the same work. Every
process gets the same number of micro-batches; one that has no sequence left gets an idle one (a single token,
nothing supervised), because under ZeRO-3 each forward pass is a collective. What the losses of a whole step are
divided by is known from the plan without any communication, which makes the normalisation exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.packing import Bins, plan
from finetune_trainer.data.schedule import Schedule


@dataclass(frozen=True)
class MicroBatch:
    """Input of one forward pass: T tokens of D rows, one after the other.

    A row attends to itself alone: row d is the tokens cu_seqlens[d]:cu_seqlens[d + 1]. The hidden state at
    supervised_positions[i] has to predict labels[i]: the token that follows, or the class of the row that ends there.
    """

    input_ids: torch.Tensor
    """int64 [1, T]."""
    position_ids: torch.Tensor
    """int64 [1, T], from 0 in every row."""
    cu_seqlens: torch.Tensor
    """int32 [D + 1]."""
    supervised_positions: torch.Tensor
    """int64 [P], ascending."""
    labels: torch.Tensor
    """int64 [P]."""
    max_seqlen: int
    """Tokens of the longest row."""
    virtual_tokens: int = 0
    """Trained tokens that the method puts before each row; nothing above counts them."""


def micro_batch(cache: TokenCache, rows: Sequence[int] | NDArray[np.int64], *, virtual_tokens: int = 0) -> MicroBatch:
    """Concatenate rows of the cache; no rows give the idle batch."""
    if len(rows) == 0:
        nothing = np.empty(0, np.int64)
        return _build([np.zeros(1, np.int64)], nothing, nothing, virtual_tokens)
    parts = [cache.row(int(row)) for row in rows]
    tokens = [ids.astype(np.int64) for ids, _ in parts]
    if cache.class_labels is not None:
        ends = np.cumsum([len(ids) for ids in tokens])
        labels = cache.class_labels[np.asarray(rows)].astype(np.int64)
        return _build(tokens, ends - 1, labels, virtual_tokens)
    # A row's first token is never supervised, so no position can point across a boundary.
    targets = np.flatnonzero(np.concatenate([flags for _, flags in parts]))
    return _build(tokens, targets - 1, np.concatenate(tokens)[targets], virtual_tokens)


def _build(
    tokens: list[NDArray[np.int64]], positions: NDArray[np.int64], labels: NDArray[np.int64], virtual_tokens: int
) -> MicroBatch:
    lengths = [len(part) for part in tokens]
    return MicroBatch(
        input_ids=torch.from_numpy(np.concatenate(tokens))[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        supervised_positions=torch.from_numpy(positions),
        labels=torch.from_numpy(labels),
        max_seqlen=max(lengths),
        virtual_tokens=virtual_tokens,
    )


class TrainingBatches:
    """The batches of a training run: a pure function of (step, rank, world size, micro-batch size).

    A row takes `virtual_tokens` more than its own, and a sequence so many more than `max_length`.
    """

    def __init__(
        self,
        cache: TokenCache,
        *,
        max_length: int,
        packing: bool,
        seed: int,
        row_weights: NDArray[Any] | None = None,
        virtual_tokens: int = 0,
    ) -> None:
        self._cache = cache
        self._virtual_tokens = virtual_tokens
        self._lengths = cache.lengths + virtual_tokens
        self._weights = cache.supervised_counts if row_weights is None else row_weights

        def epoch_plan(epoch: int) -> Bins:
            return plan(self._lengths, max_length + virtual_tokens, seed=seed, epoch=epoch, packing=packing)

        self._plan = lru_cache(maxsize=2)(epoch_plan)  # a step touches at most the end of one and the next
        first = self._plan(0)
        self.num_sequences = len(first)
        sums = np.add.reduceat(self._lengths[first.rows], first.offsets[:-1]) if len(first) else np.zeros(1)
        self.longest_sequence = int(sums.max())
        """Tokens, virtual ones included; the same in every epoch."""

    def sequences(self, schedule: Schedule, step: int) -> list[NDArray[np.int64]]:
        """Return the rows of each sequence of a step, over all processes, in reading order."""
        start = schedule.cursor(step)
        return [self._sequence(position) for position in range(start, start + schedule.sequences_per_step)]

    def _sequence(self, position: int) -> NDArray[np.int64]:
        epoch, index = divmod(position, self.num_sequences)
        return self._plan(epoch)[index]

    def weight(self, schedule: Schedule, step: int) -> float:
        """Return what the losses of a step, over all processes, are divided by: its supervised tokens by default."""
        return sum(self.weight_of(rows) for rows in self.sequences(schedule, step))

    def weight_of(self, rows: NDArray[np.int64]) -> float:
        """Return what the losses of rows are divided by."""
        return float(self._weights[rows].sum())

    def step_batches(
        self, schedule: Schedule, step: int, *, rank: int, world_size: int, micro_batch_size: int
    ) -> Iterator[MicroBatch]:
        """Yield one process's micro-batches of a step; as many as every other process gets."""
        dealt = self.step_rows(schedule, step, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
        return (micro_batch(self._cache, rows, virtual_tokens=self._virtual_tokens) for rows in dealt)

    def step_rows(
        self, schedule: Schedule, step: int, *, rank: int, world_size: int, micro_batch_size: int
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each of these micro-batches; an idle one has none."""
        sequences = self.sequences(schedule, step)
        costs = [int(self._lengths[rows].sum()) for rows in sequences]
        mine = deal(costs, world_size)[rank]
        most = -(-len(sequences) // world_size)
        for start in range(0, most, micro_batch_size):
            chosen = [sequences[index] for index in mine[start : start + micro_batch_size]]
            yield np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def batches_of(spec: FineTuneJobSpec, cache: TokenCache, row_weights: NDArray[Any] | None = None) -> TrainingBatches:
    """Return the batches of a run as its spec says them."""
    return TrainingBatches(
        cache,
        max_length=spec.data.max_length,
        packing=spec.data.packing,
        seed=spec.training.seed,
        row_weights=row_weights,
        virtual_tokens=spec.method.virtual_tokens,
    )


def deal(costs: Sequence[int], hands: int) -> list[list[int]]:
    """Deal items to hands: counts differ by at most one, costs as even as dealing to and fro makes them."""
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for start in range(0, len(order), hands):
        round_of = order[start : start + hands]
        forth = (start // hands) % 2 == 0
        for hand, index in zip(range(hands) if forth else reversed(range(hands)), round_of, strict=False):
            dealt[hand].append(index)
    return dealt


def row_batches(
    cache: TokenCache, *, rank: int, world_size: int, max_tokens: int, virtual_tokens: int = 0
) -> Iterator[MicroBatch]:
    """Yield one process's batches of a single pass over all rows, as evaluation reads them.

    Each batch holds at most `max_tokens` tokens, virtual ones included, or one longer row. All processes get the same
    number of batches.
    """
    batches = _fill(cache.lengths + virtual_tokens, max_tokens)
    for start in range(0, len(batches), world_size):
        turn = batches[start : start + world_size]
        yield micro_batch(cache, turn[rank] if rank < len(turn) else [], virtual_tokens=virtual_tokens)


def _fill(lengths: NDArray[np.int64], max_tokens: int) -> list[list[int]]:
    """Group rows, long to short, into batches of at most max_tokens tokens."""
    batches: list[list[int]] = []
    room = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        if not batches or lengths[row] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(row)
        room -= int(lengths[row])
    return batches
