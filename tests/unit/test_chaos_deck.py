"""Rounds are dealt by their seed: replayable, and fair to every fault and phase."""

from collections import Counter

from finetune_chaos.deck import DELAYS, FAULTS, deal


def test_a_seed_deals_the_same_rounds_and_another_seed_others():
    rounds = deal(1, 50)
    assert rounds == deal(1, 50)
    assert rounds[:7] == deal(1, 7)
    assert rounds != deal(2, 50)
    assert rounds[3].random.random() == deal(1, 4)[3].random.random()


def test_fifty_rounds_hold_every_fault_and_delete_and_suspend_in_every_phase():
    rounds = deal(1, 50)
    assert {one.fault.name for one in rounds} == set(FAULTS)
    for name in ("finetunejob-deleted", "suspended"):
        assert {one.phase for one in rounds if one.fault.name == name} == set(FAULTS[name].phases)
    assert max(Counter(one.job for one in rounds).values()) == 1


def test_rounds_keep_within_the_bounds_of_their_fault():
    for one in deal(3, 200):
        assert one.phase in one.fault.phases
        assert 0 <= one.delay <= DELAYS[one.phase]
        assert one.fault.hold[0] <= one.hold <= one.fault.hold[1]
        assert len(one.job) <= 45
