"""The last word of a stage: JSON of at most 4096 bytes in the file that Kubernetes shows as termination message."""

import json
import os
from operator import itemgetter
from pathlib import Path
from typing import Any

from finetune_api.stage import TERMINATION_LIMIT, TerminationMessage
from finetune_trainer import log

_SHORTEST_SENTENCE = 200
_LISTS = (("classes", "train"), ("invalid", "rows"))
"""Of the part `data`, shortened in this order, with what their entries are counted by; the data card has them too."""
_DISPENSABLE = ("data", "plan", "evaluation", "output", "bestCheckpoint", "lastCheckpoint", "progress")
"""Parts that are left out, in this order, when the record is too long even with a short sentence and no lists."""


def encode(message: TerminationMessage) -> bytes:
    """Return the record as JSON within the limit: first the sentence and then lists are shortened, then parts go."""
    wire = message.to_wire()
    sentence = wire.get("message", "")
    while len(_json(wire)) > TERMINATION_LIMIT and len(sentence) > _SHORTEST_SENTENCE:
        sentence = sentence[: max(_SHORTEST_SENTENCE, len(sentence) - 100)]
        wire["message"] = f"{sentence}…"
    _shorten_lists(wire)
    for part in _DISPENSABLE:
        if len(_json(wire)) <= TERMINATION_LIMIT:
            break
        if wire.pop(part, None) is not None:
            log.warning("last-word-without", part=part)
    return _json(wire)


def _shorten_lists(wire: dict[str, Any]) -> None:
    """Leave out entries of the lists of rows, those with the fewest rows first, until the record fits."""
    for name, count in _LISTS:
        entries = wire.get("data", {}).get(name, [])
        while entries and len(_json(wire)) > TERMINATION_LIMIT:
            entries.remove(min(entries, key=itemgetter(count)))


def write_last_word(path: Path, message: TerminationMessage) -> None:
    """Write the record; a path that cannot be written is logged and does not change how the stage ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is there already is written over in place, which a full disk allows.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
            file.truncate(file.write(encode(message)))
    except OSError as error:
        log.error("termination-message-lost", path=str(path), cause=str(error), reason=message.reason)


def _json(wire: dict[str, Any]) -> bytes:
    return json.dumps(wire, separators=(",", ":"), ensure_ascii=False).encode()
