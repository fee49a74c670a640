"""Columns of a row under the names that its format gives them (`spec.data.columns`)."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from finetune_api.spec import Columns
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.readers import Row

_AS_JSON = ("messages", "tools")
"""Columns that files of flat rows can only hold as JSON text."""


def named(rows: Iterable[Row], columns: Columns) -> Iterator[Row]:
    """Yield rows with their columns renamed and decoded."""
    names = {theirs: own for own in Columns.model_fields if (theirs := getattr(columns, own))}
    for row in rows:
        yield row if isinstance(row.columns, RowError) else Row(row.place, _decode(_rename(row.columns, names)))


def _rename(columns: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    if not names:
        return columns
    renamed = {names[name]: value for name, value in columns.items() if name in names}
    return {**{name: value for name, value in columns.items() if name not in names}, **renamed}


def _decode(columns: dict[str, Any]) -> dict[str, Any] | RowError:
    decoded = {}
    for name in _AS_JSON:
        text = columns.get(name)
        if isinstance(text, str):
            try:
                decoded[name] = json.loads(text) if text.strip() else None
            except (ValueError, RecursionError) as error:
                return RowError(name, f"not valid JSON: {error}; write a JSON list")
    return {**columns, **decoded} if decoded else columns
