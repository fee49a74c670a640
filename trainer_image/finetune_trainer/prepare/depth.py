"""How deeply a row may be nested: what checks, masks, compares and writes it goes down by calls of its own."""

from typing import Any

from finetune_trainer.prepare.problems import RowError

MOST_LEVELS = 200
"""Of lists and objects in one another, the row itself among them; Python takes about four times as many."""


def too_deep() -> RowError:
    """Return what is wrong with a row that is nested too deeply."""
    return RowError("", f"is nested too deeply; {MOST_LEVELS} lists and objects may stand in one another")


def require_shallow(value: Any, *, above: int = 0) -> None:
    """Raise RowError when a value, with so many levels above it in the row, is nested too deeply."""
    level = [value]
    for _ in range(MOST_LEVELS - above):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise too_deep()


def _inner(value: Any) -> list[Any]:
    """Return the lists and objects that stand right in a value."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [item for item in items if isinstance(item, (dict, list, tuple))]
