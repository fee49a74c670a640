"""What a fault may cost a job."""

import pytest

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus, Restarts
from finetune_chaos.deck import FAULTS, Round
from finetune_chaos.expectation import unexpected


def ended(reason=Reason.SUCCEEDED, total=0, counted=0):
    phase = Phase.SUCCEEDED if reason is Reason.SUCCEEDED else Phase.FAILED
    return FineTuneJobStatus(phase=phase, reason=reason, restarts=Restarts(total=total, counted=counted))


def struck(fault, phase=Phase.RUNNING):
    return Round(1, 1, FAULTS[fault], phase, delay=1, hold=0)


@pytest.mark.parametrize(
    ("one", "status"),
    [
        (struck("rank-killed"), ended(total=1, counted=1)),
        (struck("pod-evicted"), ended(total=1)),
        (struck("operator-killed"), ended()),
        (struck("operator-killed", Phase.RESTARTING), ended(total=1, counted=1)),
        (struck("scratch-filled"), ended(Reason.SCRATCH_FULL)),
    ],
)
def test_what_a_fault_may_cost(one, status):
    assert unexpected(one, status, missed=False) == []


@pytest.mark.parametrize(
    ("one", "status", "words"),
    [
        (struck("pod-evicted"), ended(total=1, counted=1), "1 restarts counted, at most 0"),
        (struck("pod-evicted"), ended(), "0 restarts, expected 1 to 1"),
        (struck("operator-killed"), ended(total=1), "1 restarts, expected 0 to 0"),
        (struck("node-lost"), ended(Reason.BACKOFF_LIMIT_EXCEEDED), "expected Succeeded"),
        (struck("scratch-filled"), ended(), "expected ScratchFull"),
    ],
)
def test_what_it_may_not(one, status, words):
    assert any(words in found for found in unexpected(one, status, missed=False))


def test_a_fault_that_met_nothing_changes_nothing():
    assert unexpected(struck("scratch-filled"), ended(), missed=True) == []
    assert unexpected(struck("rank-killed"), ended(Reason.CRASHED, total=1), missed=True)
