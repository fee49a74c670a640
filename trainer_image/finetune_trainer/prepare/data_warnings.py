"""What a user must know of a preparation that did not fail: told once, in the log and in `status.data.warnings`.

What has a field of its own in `status.data` (rows left out, duplicates) is no warning. All of them together have to
fit into a pod's last word, so a sentence is short, and bears numbers and names of fields but no text of the user's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer import log


@dataclass(frozen=True)
class DataWarning:
    """Something that is so, and how to mend it."""

    event: str
    """Of the log line."""
    sentence: str
    """In users' words; ASCII."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the log line."""


def tell(*found: DataWarning | None) -> list[str]:
    """Log what was found, and return its sentences for the status, in the same order."""
    told = [warning for warning in found if warning is not None]
    for warning in told:
        log.warning(warning.event, **warning.fields, hint=warning.sentence)
    return [warning.sentence for warning in told]


def tell_again(sentences: list[str]) -> None:
    """Log what another run has found out about the rows that this one copies."""
    for sentence in sentences:
        log.warning("told-of-reused-rows", hint=sentence)


def experts_not_adapted(parameters: int) -> DataWarning | None:
    """Return the warning of so many parameters of experts that no adapter reaches; None: there are none."""
    if not parameters:
        return None
    return DataWarning(
        "experts-not-adapted",
        f"in models of this kind targetModules: [all-linear] does not reach the experts ({parameters:,} parameters):"
        " attention and what else is a linear layer is adapted; to train experts, set spec.method.type: full or"
        " freeze",
        {"parameters": parameters},
    )


def no_turn_end(rows: int) -> DataWarning | None:
    """Return the warning of so many rows with an answer that no special token ends; None: there are none."""
    if not rows:
        return None
    return DataWarning(
        "no-turn-end-token",
        f"the chat template ends answers without a special token (rows: {rows}), so the tuned model may not stop; set"
        " spec.model.chatTemplate to one that writes the tokenizer's end-of-turn token after each answer",
        {"rows": rows},
    )


def fewer_rows_to_replay(missing: int) -> DataWarning | None:
    """Return the warning of so many rows that there are too few to replay; None: there are enough."""
    if not missing:
        return None
    return DataWarning(
        "fewer-rows-to-replay",
        f"spec.data.replay.fraction wants more general rows than there are (missing: {missing}), so all of them are"
        " taken; add sources to spec.data.replay, or lower its fraction",
        {"missing": missing},
    )


def fewer_sequences(sequences: int, global_batch_size: int) -> DataWarning | None:
    """Return the warning of fewer sequences than a step wants; None: there are enough."""
    if sequences >= global_batch_size:
        return None
    return DataWarning(
        "fewer-sequences-than-global-batch",
        f"an epoch has {sequences} of the {global_batch_size} sequences that spec.training.globalBatchSize wants for"
        " a step, so each step takes the whole data set; lower it, add rows, or lower spec.data.maxLength, so that"
        " packing makes more sequences",
        {"sequences": sequences, "global_batch_size": global_batch_size},
    )


def rows_of_fewer_tokens(positions: int | None, max_length: int) -> DataWarning | None:
    """Return the warning of a model that reads at most so many tokens of a row; None: as many as are wanted."""
    if positions is None or positions >= max_length:
        return None
    return DataWarning(
        "rows-of-fewer-tokens",
        f"the model reads rows of {positions} tokens at most, less than spec.data.maxLength; lower it, or choose"
        " another model",
        {"positions": positions, "max_length": max_length},
    )
