"""Columns under the names that the format has for them, not those of the rows (`spec.data.columns`)."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from finetune_api.spec import Columns
from finetune_trainer.prepare.depth import too_deep
from finetune_trainer.prepare.formats import Format
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.readers import Row

_AS_JSON: dict[Format, tuple[str, ...]] = {"messages": ("messages", "tools"), "label": ("messages",)}
"""Columns of a format that files of flat rows can only hold as JSON text."""


def named(rows: Iterable[Row], columns: Columns) -> Iterator[Row]:
    """Yield rows with their columns renamed."""
    names = {theirs: own for own, theirs in columns.to_wire().items() if theirs}
    for row in rows:
        yield row if isinstance(row.columns, RowError) else Row(row.place, _rename(row.columns, names))


def as_read(row: Row, form: Format) -> Row:
    """Return a row with what its format holds as JSON text decoded, or with what is wrong with that."""
    return row if isinstance(row.columns, RowError) else Row(row.place, _decode(row.columns, form))


def own_name(columns: Columns, field: str) -> str:
    """Return a field as the row has it: dialog[2].content for messages[2].content."""
    column = re.split(r"[.\[]", field)[0]
    return f"{columns.to_wire().get(column) or column}{field[len(column) :]}"


def _rename(columns: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    if not names:
        return columns
    # A column of that name which is not the one that was named is another column.
    others = set(names.values()) - set(names)
    return {names.get(name, name): value for name, value in columns.items() if name not in others}


def _decode(columns: dict[str, Any], form: Format) -> dict[str, Any] | RowError:
    decoded = {}
    for name in _AS_JSON.get(form, ()):
        text = columns.get(name)
        if isinstance(text, str):
            try:
                decoded[name] = json.loads(text) if text.strip() else None
            except RecursionError:
                return too_deep()
            except ValueError as error:
                return RowError(name, f"not valid JSON: {error}; write a JSON list")
    return {**columns, **decoded} if decoded else columns
