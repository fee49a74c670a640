"""When a loss that jumps ends training, and which rows are named then."""

import json
from math import inf, nan

import numpy as np
import pytest

from finetune_api.spec import LossSpike
from finetune_trainer.data.places import Places
from finetune_trainer.train.spikes import noted, spike
from finetune_trainer.train.state import RunState
from finetune_trainer.train.suspects import Suspect, log_rows, named

SETTINGS = LossSpike(threshold=2, window=3)


def spikes_at(losses, settings, state=None):
    """Return at which step training ends, counted from 1; None: not at all."""
    state = state or RunState()
    for number, loss in enumerate(losses, 1):
        if spike(state, loss, settings):
            return number
        state = noted(state, loss, settings)
    return None


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2.0, 2.0, 2.0, 4.0], None),
        ([2.0, 2.0, 2.0, 4.01], 4),
        ([2.0, 9.0, 2.0, 2.0], None),  # too early to be judged, and the median hardly moves
        ([2.0, 2.0, 9.0], None),
        ([2.0, 9.0, 2.0, 2.0, 2.0, 9.0], 6),
        ([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 1.1], 7),
        ([1.0, 2.0, 4.0, 4.0, 8.0, 8.0], None),  # it grows, but each step is within twice the median
        ([0.0, 0.0, 0.0, 0.1], 4),
    ],
)
def test_a_loss_far_above_the_median_of_the_steps_before(losses, step):
    assert spikes_at(losses, SETTINGS) == step


def test_nothing_is_judged_without_settings():
    assert spikes_at([1.0] * 60 + [1e9], None) is None
    assert noted(RunState(), 1.0, None) == RunState()


def test_a_restarted_attempt_goes_on_with_the_losses_before_it():
    state = RunState()
    for loss in [2.0, 2.1, 1.9, 2.2]:
        state = noted(state, loss, SETTINGS)
    resumed = RunState.model_validate_json(state.model_dump_json(by_alias=True))
    assert resumed.recent_losses == [2.1, 1.9, 2.2]
    assert spikes_at([9.0], SETTINGS, resumed) == 1
    assert "9, more than 2 times the median of the 3 steps before it, 2.1" in (spike(resumed, 9.0, SETTINGS) or "")


def test_a_window_that_was_widened_waits_until_it_is_full():
    state = RunState(recent_losses=[2.0, 2.0, 2.0])
    wider = LossSpike(threshold=2, window=4)
    assert spikes_at([9.0, 9.0], wider, state) is None
    assert spikes_at([2.0, 9.0], wider, state) == 2


def places(count=40, source="s3://d/train.jsonl:"):
    return Places("train", np.asarray([[0, line + 1] for line in range(count)]), [source])


def suspect(loss, *rows, rank=0):
    return Suspect(rank, loss, np.asarray(rows, np.int64))


def test_rows_of_the_worst_micro_batch_are_named():
    found = [suspect(nan, 3, 8, rank=1), suspect(2.0, 1)]
    assert named(found, places()) == (
        "the worst loss of a micro-batch, nan on rank 1, is that of s3://d/train.jsonl:4, s3://d/train.jsonl:9;"
        " the log lists the rows of all (event suspect-rows)"
    )


def test_of_many_rows_a_few_are_named():
    found = [suspect(7.0, *range(20))]
    assert "s3://d/train.jsonl:5 and 15 more;" in named(found, places())
    long = places(source=f"s3://d/{'x' * 500}.jsonl:")
    assert "jsonl:1 and 19 more;" in named(found, long)
    assert len(named(found, long)) < 800


def test_no_row_is_blamed_when_all_losses_are_none():
    text = named([suspect(nan, 1), suspect(inf, 2, rank=1)], places())
    assert "the weights are the cause" in text
    assert "train.jsonl" not in text


def test_a_single_micro_batch_may_be_to_blame():
    assert "train.jsonl:2" in named([suspect(nan, 1)], places())


def test_the_log_lists_the_rows_of_every_micro_batch(capsys):
    log_rows([suspect(nan, 3, rank=1), suspect(2.5, 0, 1)], places(), step=12)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["event"], first["step"], first["ofRank"], first["loss"]) == ("suspect-rows", 12, 1, "nan")
    assert second["rows"] == ["s3://d/train.jsonl:1", "s3://d/train.jsonl:2"]
