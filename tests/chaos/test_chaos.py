"""A few rounds of chaos, the most telling ones; `make chaos` plays many."""

import os
import sys

import pytest

from finetune_api.reasons import Phase
from finetune_chaos.deck import FAULTS, Round
from finetune_chaos.session import opened_arena, play_one, tell_json
from quickstart.steps import run

pytestmark = pytest.mark.timeout(900)

SEED = 1
ROUNDS = (
    Round(SEED, 1, FAULTS["rank-killed"], Phase.RUNNING, delay=6, hold=0),
    Round(SEED, 2, FAULTS["node-lost"], Phase.RUNNING, delay=8, hold=5),
    Round(SEED, 3, FAULTS["etcd-killed"], Phase.PREPARING, delay=3, hold=0),
    Round(SEED, 4, FAULTS["operator-killed"], Phase.RESTARTING, delay=2, hold=0),
    Round(SEED, 5, FAULTS["finetunejob-deleted"], Phase.EXPORTING, delay=2, hold=0),
)


@pytest.fixture(scope="module")
def arena():
    if "KUBECONFIG" not in os.environ:
        pytest.fail("KUBECONFIG is not set; run `make test`")
    run(sys.executable, "dev/cluster", "up")
    run(sys.executable, "dev/cluster", "images")
    with opened_arena() as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(arena):
    return arena.undisturbed()


@pytest.mark.parametrize("one", ROUNDS, ids=lambda one: f"{one.fault.name}-{one.phase}")
def test_nothing_is_violated(arena, reference, one):
    line = play_one(arena, one, reference)
    tell_json(line)
    assert line["violations"] == []
    assert line["missed"] == ""
