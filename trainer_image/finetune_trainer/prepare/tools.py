"""Tools in conversations: what the model may call, and the calls of a turn, in the form that OpenAI's API has.

    tools        [{"type": "function", "function": {"name": "...", "description": "...", "parameters": {...}}}, ...]
    tool_calls   [{"id": "...", "type": "function", "function": {"name": "...", "arguments": {...}}}, ...]

`arguments` may be the JSON text of an object, as that API sends it; templates are given the object, because most
of them write it as JSON themselves and would quote a text once more.
"""

import json
from typing import Any

from finetune_trainer.prepare.depth import require_shallow, too_deep
from finetune_trainer.prepare.problems import RowError

Json = dict[str, Any]
_ABOVE_ARGUMENTS = 6
"""Levels of a row: itself, its turns, one of them, its calls, one of them, and the function."""


def tools_of(value: Any) -> tuple[Json, ...]:
    """Return the tools of a row; none when the column is missing or empty. Raises RowError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError("tools", f"is {type(value).__name__}, not a list of tools")
    for index, tool in enumerate(value):
        _function(tool, f"tools[{index}]")
        _check_text(tool, f"tools[{index}]")
    return tuple(value)


def calls_of(value: Any, field: str) -> list[Json]:
    """Return the calls of a turn. Raises RowError."""
    if not isinstance(value, list):
        raise RowError(field, f"is {type(value).__name__}, not a list of calls")
    return [_call(call, f"{field}[{index}]") for index, call in enumerate(value)]


def _call(value: Any, field: str) -> Json:
    function = _function(value, field)
    arguments = _arguments(function.get("arguments"), f"{field}.function.arguments")
    call = {**value, "function": {**function, "arguments": arguments}}
    _check_text(call, field)
    return call


def _function(value: Any, field: str) -> Json:
    if not isinstance(value, dict):
        raise RowError(field, "is not an object with type and function")
    function = value.get("function")
    if not isinstance(function, dict):
        raise RowError(f"{field}.function", "is missing; write an object with the name of the function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"{field}.function.name", "is missing")
    return function


def _arguments(value: Any, field: str) -> Json:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError:
            raise too_deep() from None
        except ValueError as error:
            raise RowError(field, f"not valid JSON: {error}; write a JSON object") from error
    if not isinstance(value, dict):
        raise RowError(field, f"is {type(value).__name__}, not an object")
    require_shallow(value, above=_ABOVE_ARGUMENTS)
    _check_text(value, field)
    return value


def _check_text(value: Any, field: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError(field, "holds half of a surrogate pair, which is no text") from None
    except (TypeError, ValueError) as error:  # a date of a Parquet file
        raise RowError(field, f"is nothing that JSON can hold: {error}") from error
