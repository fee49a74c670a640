"""Token cache and batches: what is written is read, and any number of processes reads the same global batch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data import cache as cache_module
from finetune_trainer.data.batches import TrainingBatches, deal, micro_batch, row_batches
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.data.schedule import schedule


def write_cache(directory: Path, rows: list[tuple[list[int], list[bool]]]) -> TokenCache:
    with CacheWriter(directory, "train") as writer:
        for ids, flags in rows:
            writer.append(ids, flags)
    return TokenCache.open(directory, "train")


def random_rows(count: int, seed: int = 0) -> list[tuple[list[int], list[bool]]]:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        length = int(rng.integers(2, 30))
        # The first token tells the row, so that a batch can be taken apart again.
        ids = [1000 + index, *rng.integers(0, 999, length - 1).tolist()]
        rows.append((ids, [False, *(rng.random(length - 1) < 0.5).tolist()]))
    return rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> TokenCache:
    return write_cache(tmp_path_factory.mktemp("cache"), random_rows(50))


def test_reads_back_what_was_written(tmp_path):
    rows = random_rows(7)
    cache = write_cache(tmp_path, rows)
    assert len(cache) == 7
    for index, (ids, flags) in enumerate(rows):
        got_ids, got_flags = cache.row(index)
        assert got_ids.tolist() == ids
        assert got_flags.tolist() == [int(flag) for flag in flags]
    assert cache.lengths.tolist() == [len(ids) for ids, _ in rows]
    assert cache.supervised_counts.tolist() == [sum(flags) for _, flags in rows]


def test_an_empty_split_is_a_cache_of_no_rows(tmp_path):
    cache = write_cache(tmp_path, [])
    assert len(cache) == 0
    assert list(row_batches(cache, rank=0, world_size=2, max_tokens=10)) == []


def test_refuses_a_supervised_first_token(tmp_path):
    with pytest.raises(ValueError, match="first token"):
        write_cache(tmp_path, [([1, 2], [True, True])])


@pytest.mark.parametrize("portion", [1, 20, 10**6])
def test_rows_are_copied_in_any_order_and_counted(tmp_path, monkeypatch, portion):
    monkeypatch.setattr(cache_module, "_PORTION_TOKENS", portion)
    rows = random_rows(9)
    cache = write_cache(tmp_path, rows)
    order = [4, 4, 0, 8, 1]
    (tmp_path / "copy").mkdir()
    with CacheWriter(tmp_path / "copy", "train") as writer:
        writer.copy_rows(cache, np.array(order))
        writer.copy_rows(cache, np.empty(0, np.int64))
    copy = TokenCache.open(tmp_path / "copy", "train")
    assert [copy.row(index)[0].tolist() for index in range(len(copy))] == [rows[row][0] for row in order]
    assert copy.supervised_counts.tolist() == [sum(rows[row][1]) for row in order]
    assert (writer.rows, writer.tokens) == (5, sum(len(rows[row][0]) for row in order))
    assert writer.supervised_tokens == copy.supervised_counts.sum()


def test_notices_files_that_do_not_belong_together(tmp_path):
    write_cache(tmp_path, random_rows(3))
    (tmp_path / "train.supervised.bin").write_bytes(b"\1")
    with pytest.raises(ValueError, match="do not fit together"):
        TokenCache.open(tmp_path, "train")


def test_a_micro_batch_has_boundaries_and_targets(tmp_path):
    cache = write_cache(tmp_path, [([5, 6, 7], [False, True, True]), ([8, 9], [False, True])])
    batch = micro_batch(cache, [0, 1])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.supervised_positions.tolist() == [0, 1, 3]
    assert batch.labels.tolist() == [6, 7, 9]
    assert batch.max_seqlen == 3


def test_a_row_with_a_label_predicts_it_at_its_last_token(tmp_path):
    with CacheWriter(tmp_path, "train", labelled=True) as writer:
        for ids, label in (([5, 6, 7], 2), ([8], 0), ([9, 4], 1)):
            writer.append(ids, [False] * len(ids), label)
    cache = TokenCache.open(tmp_path, "train")
    batch = micro_batch(cache, [2, 0, 1])
    assert batch.input_ids.tolist() == [[9, 4, 5, 6, 7, 8]]
    assert batch.supervised_positions.tolist() == [1, 4, 5]
    assert batch.labels.tolist() == [1, 2, 0]
    assert micro_batch(cache, []).labels.tolist() == []


def test_notices_labels_that_do_not_belong_to_the_rows(tmp_path):
    write_cache(tmp_path, random_rows(3))
    (tmp_path / "train.labels.bin").write_bytes(b"\0" * 8)
    with pytest.raises(ValueError, match="do not fit together"):
        TokenCache.open(tmp_path, "train")


def test_the_idle_batch_has_a_token_and_no_target(cache):
    batch = micro_batch(cache, [])
    assert batch.input_ids.shape == (1, 1)
    assert batch.cu_seqlens.tolist() == [0, 1]
    assert batch.labels.numel() == 0


def rows_of(batches) -> Counter[int]:
    """Return how often each row occurs in batches, told by the first tokens."""
    return Counter(
        int(batch.input_ids[0, start]) - 1000
        for batch in batches
        for start in batch.cu_seqlens[:-1].tolist()
        if int(batch.input_ids[0, start]) >= 1000
    )


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_any_number_of_processes_reads_the_same_global_batches(cache, packing, micro):
    data = TrainingBatches(cache, max_length=64, packing=packing, seed=7)
    plan = schedule(data.num_sequences, epochs=3, max_steps=None, global_batch_size=8)
    for step in range(plan.total_steps):
        seen = []
        for world in (1, 2, 4):
            batches = [
                list(data.step_batches(plan, step, rank=rank, world_size=world, micro_batch_size=micro))
                for rank in range(world)
            ]
            assert len({len(of_rank) for of_rank in batches}) == 1
            flat = [batch for of_rank in batches for batch in of_rank]
            assert sum(batch.labels.numel() for batch in flat) == data.weight(plan, step)
            seen.append(rows_of(flat))
        assert seen[0] == seen[1] == seen[2]


def test_the_stream_goes_on_over_epochs(cache):
    data = TrainingBatches(cache, max_length=64, packing=True, seed=7)
    plan = schedule(data.num_sequences, epochs=2, max_steps=None, global_batch_size=4)
    seen: Counter[int] = Counter()
    for step in range(plan.total_steps):
        seen += rows_of(data.step_batches(plan, step, rank=0, world_size=1, micro_batch_size=4))
    assert all(count >= 2 for count in seen.values())
    assert len(seen) == len(cache)


def test_a_data_set_smaller_than_the_batch_leaves_processes_idle_but_in_step(tmp_path):
    data = TrainingBatches(write_cache(tmp_path, random_rows(3)), max_length=64, packing=False, seed=0)
    plan = schedule(data.num_sequences, epochs=2, max_steps=None, global_batch_size=8)
    ranks = [list(data.step_batches(plan, 0, rank=rank, world_size=4, micro_batch_size=1)) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [1, 1, 1, 1]
    assert rows_of([batch for batches in ranks for batch in batches]) == Counter(range(3))


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(1, 8))
def test_dealing_is_even(costs, hands):
    dealt = deal(costs, hands)
    assert sorted(index for hand in dealt for index in hand) == list(range(len(costs)))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    if costs:
        loads = [sum(costs[index] for index in hand) for hand in dealt]
        assert max(loads) - min(loads) <= 2 * max(costs)


@settings(max_examples=20)
@given(world=st.integers(1, 5), max_tokens=st.integers(1, 80))
def test_evaluation_reads_every_row_once(cache, world, max_tokens):
    ranks = [list(row_batches(cache, rank=rank, world_size=world, max_tokens=max_tokens)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for of_rank in ranks for batch in of_rank]
    assert rows_of(batches) == Counter(range(len(cache)))
    for batch in batches:
        assert batch.input_ids.shape[1] <= max_tokens or len(batch.cu_seqlens) == 2


def test_virtual_tokens_take_room_in_every_row(cache):
    data = TrainingBatches(cache, max_length=64, packing=True, seed=7, virtual_tokens=10)
    plan = schedule(data.num_sequences, epochs=1, max_steps=None, global_batch_size=4)
    rows = [batch for step in range(plan.total_steps) for batch in data.sequences(plan, step)]
    taken = [int(cache.lengths[batch].sum()) + 10 * len(batch) for batch in rows]
    assert max(taken) == data.longest_sequence <= 74
    (batch, *_) = data.step_batches(plan, 0, rank=0, world_size=1, micro_batch_size=1)
    assert batch.virtual_tokens == 10
    for batch in row_batches(cache, rank=0, world_size=1, max_tokens=80, virtual_tokens=10):
        assert batch.input_ids.shape[1] + 10 * (len(batch.cu_seqlens) - 1) <= 80
