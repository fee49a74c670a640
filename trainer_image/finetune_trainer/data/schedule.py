"""How many optimizer steps a run has, and which sequences each step takes: defined here and nowhere else.

The epochs follow one another as one endless stream of sequences. A step takes the next `sequences_per_step` of
them: `globalBatchSize`, exactly, in every step. What is left of an epoch is therefore read together with the
beginning of the next one, and the last step of the run is filled up in the same way, so that no sequence that was
asked for goes unread. Only a data set with fewer sequences than `globalBatchSize` has smaller steps: each then
takes the whole data set once, since a batch that holds a row several times teaches nothing more.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from finetune_api.spec import Training


@dataclass(frozen=True)
class Schedule:
    """The steps of a run over a stream of sequences. Steps count from 0; `cursor` counts consumed sequences."""

    num_sequences: int
    sequences_per_step: int
    total_steps: int

    def cursor(self, step: int) -> int:
        """Return the sequences consumed before a step."""
        return step * self.sequences_per_step

    def epoch(self, step: int) -> float:
        """Return the passes over the data done before a step."""
        return self.cursor(step) / self.num_sequences


def schedule_of(training: Training, num_sequences: int) -> Schedule:
    """Return the steps of a run as its spec says them."""
    return schedule(
        num_sequences,
        epochs=training.epochs,
        max_steps=training.max_steps,
        global_batch_size=training.global_batch_size,
    )


def schedule(num_sequences: int, *, epochs: float | None, max_steps: int | None, global_batch_size: int) -> Schedule:
    """Return the steps of a run. Raises ValueError without sequences or unless exactly one length is given."""
    if num_sequences < 1:
        raise ValueError("there are no sequences to train on")
    if (epochs is None) == (max_steps is None):
        raise ValueError("exactly one of epochs and max_steps must be given")
    per_step = min(global_batch_size, num_sequences)
    if max_steps is not None:
        return Schedule(num_sequences, per_step, max_steps)
    # As the decimal that the user wrote: 0.3 of 10 sequences are 3, not 2.99... or 3.00...1 rounded up to 4.
    wanted = Fraction(str(epochs)) * num_sequences
    return Schedule(num_sequences, per_step, max(1, ceil(wanted / per_step)))
