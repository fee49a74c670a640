"""Which fault strikes when: dealt from a seeded deck, so that every fault comes before one comes again too often."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from finetune_api.reasons import Phase
from finetune_chaos.fault import Fault
from finetune_chaos.kube_faults import KUBE_FAULTS
from finetune_chaos.node_faults import NODE_FAULTS

FAULTS = {fault.name: fault for fault in (*NODE_FAULTS, *KUBE_FAULTS)}
DELAYS = {
    Phase.PENDING: 0.2,
    Phase.PREPARING: 6.0,
    Phase.STARTING: 1.5,
    Phase.RUNNING: 14.0,
    Phase.RESTARTING: 8.0,
    Phase.EXPORTING: 8.0,
}
"""Longest time from the beginning of a phase to the strike: about as long as the phase lasts."""


@dataclass(frozen=True)
class Round:
    """One round: what strikes, in which phase, how long after it began, and for how long."""

    seed: int
    number: int
    fault: Fault
    phase: Phase
    delay: float
    hold: float

    @property
    def random(self) -> Random:
        """The chance of the round alone, so that a round can be played again without those before."""
        return Random(f"{self.seed}/{self.number}")  # noqa: S311 - a replayable choice

    @property
    def job(self) -> str:
        """Name of the round's job."""
        return f"r{self.number}-{self.fault.name}"


def deal(seed: int, rounds: int, faults: Sequence[Fault] = tuple(FAULTS.values())) -> list[Round]:
    """Return the rounds of a seed: the same at every call, and the first of many are those of few."""
    chance = Random(seed)  # noqa: S311 - a replayable choice
    dealt = _faults(chance, faults)
    phases = {fault.name: _cycle(chance, fault.phases) for fault in faults}
    return [_round(seed, number, next(dealt), phases, chance) for number in range(1, rounds + 1)]


def _round(seed: int, number: int, fault: Fault, phases: dict[str, Iterator[Phase]], chance: Random) -> Round:
    phase = next(phases[fault.name])
    return Round(
        seed=seed,
        number=number,
        fault=fault,
        phase=phase,
        delay=round(chance.uniform(0, DELAYS[phase]), 1),
        hold=round(chance.uniform(*fault.hold), 1),
    )


def _faults(chance: Random, faults: Sequence[Fault]) -> Iterator[Fault]:
    """Yield faults as often as they weigh, shuffled, before any comes more often."""
    while True:
        cards = [fault for fault in faults for _ in range(fault.weight)]
        chance.shuffle(cards)
        yield from cards


def _cycle(chance: Random, phases: Sequence[Phase]) -> Iterator[Phase]:
    """Yield every phase before one comes again, in an order of chance."""
    while True:
        cards = list(phases)
        chance.shuffle(cards)
        yield from cards
