"""The head in the file of a classifier's adapter that is trained further: which label each of its rows means.

The export writes the labels into `config.json` beside an adapter. Without that file, rows are known by their place
alone, and the prepare stage has the job list its labels.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from finetune_trainer.model.task import HEAD

LABELS_FILE = "config.json"
_SHOWN = 10


def known_labels(directory: Path) -> tuple[str, ...]:
    """Return the label of each row of the adapter's head; none where nobody wrote them down."""
    path = directory / LABELS_FILE
    found = json.loads(path.read_text()).get("id2label") if path.exists() else None
    labels = tuple(label for _, label in sorted((found or {}).items(), key=lambda item: int(item[0])))
    unnamed = tuple(f"LABEL_{number}" for number in range(len(labels)))  # transformers' own, where there are none
    return () if labels == unnamed else labels


def rows(directory: Path) -> int:
    """Return how many labels the adapter's head tells apart; 0: it has none."""
    with safe_open(directory / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
        heads = [key for key in file.keys() if is_of_head(key)]  # noqa: SIM118 - no mapping
        return int(file.get_slice(heads[0]).get_shape()[0]) if heads else 0


def is_of_head(key: str) -> bool:
    """Whether a tensor of an adapter's file is a head's."""
    return HEAD in key.split(".")


def problem(directory: Path, labels: Sequence[str]) -> str | None:
    """Return why the adapter's head is not one for these labels; no labels: a language model's."""
    count, known = rows(directory), known_labels(directory)
    if not labels:
        classifier = "it is a classifier's (it has a head, score); set spec.objective: classification"
        return classifier if count else None
    if not count:
        return (
            "it has no head (score), so it was not trained to tell labels apart; remove it, or set spec.objective to"
            " what it was trained for"
        )
    if known and sorted(known) != sorted(labels):
        return (
            f"its labels are {_named(known)}, those of the job {_named(labels)}; spec.data.labels and the rows must"
            " have its labels, in any order"
        )
    return None if count == len(labels) else f"its head tells {count} labels apart, the job has {len(labels)}"


def order(directory: Path, labels: Sequence[str]) -> list[int]:
    """Return the row of the adapter's head that each label has there: its own place where names are not known."""
    known = known_labels(directory) or tuple(labels)
    return [known.index(label) for label in labels]


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:_SHOWN]))
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")
