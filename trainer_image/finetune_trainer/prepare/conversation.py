"""Conversations: the turns of a row, checked one by one and in their order.

A conversation may open with a system turn; then user and assistant take turns, beginning with user and ending with
assistant, or with either where it has a label. An assistant turn with `tool_calls` is followed by the turns of those
tools (role `tool`) and another assistant turn; a conversation may also end with the calls. Turns may also be written
as `from` (human, gpt, system) and `value`.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from finetune_trainer.prepare.problems import RowError, is_name
from finetune_trainer.prepare.tools import calls_of

_ROLES = ("system", "user", "assistant", "tool")
_EXTRA = ("tool_calls", "tool_call_id", "name")
"""What a turn may have beside role and content; the chat template decides what becomes of it."""
_OTHER_ROLES = {"human": "user", "gpt": "assistant"}
"""Roles of turns that are written with `from` and `value`."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str
    extra: dict[str, Any] = field(default_factory=dict)
    """Calls of tools, or which call this answers."""

    def to_column(self) -> dict[str, Any]:
        """Return the turn as it stands in a row."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class Conversation:
    """An example of format messages."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that may be called, as JSON schemas."""

    def with_numbered_calls(self) -> "Conversation":
        """Return the conversation with the ids of its calls numbered in their order, or itself where it has none."""
        if not any(turn.extra for turn in self.turns):
            return self
        numbers: dict[Any, str] = {}
        turns = tuple(replace(turn, extra=_numbered(turn.extra, numbers)) for turn in self.turns)
        return replace(self, turns=turns) if numbers else self

    def without_answers(self, lost: int) -> "Conversation":
        """Return the conversation up to the last of the answers that are left when so many are not."""
        ends = [index for index, turn in enumerate(self.turns, start=1) if turn.role == "assistant"]
        return replace(self, turns=self.turns[: ends[-1 - lost]]) if lost else self


def _numbered(extra: dict[str, Any], numbers: dict[Any, str]) -> dict[str, Any]:
    """Return what a turn has with each id of a call by its number; new ones are added to `numbers`."""

    def number(value: Any) -> Any:
        return numbers.setdefault(value, str(len(numbers))) if isinstance(value, str) else value

    with_id = {"tool_call_id": number(extra["tool_call_id"])} if "tool_call_id" in extra else {}
    calls = [{**call, "id": number(call["id"])} if "id" in call else call for call in extra.get("tool_calls", [])]
    return {**extra, **with_id, **({"tool_calls": calls} if calls else {})}


def text_of(value: Any, field: str) -> str:
    """Return a value that has to be a text with something in it. Raises RowError."""
    if not isinstance(value, str):
        raise RowError(field, f"is {type(value).__name__}, not text")
    if not value.strip():
        raise RowError(field, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, "holds half of a surrogate pair, which is no text") from None
    return value


def conversation_of(value: Any, *, answered: bool) -> Conversation:
    """Return the conversation of a list of turns; `answered`: it has to end with an answer. Raises RowError."""
    if not isinstance(value, list):
        raise RowError("messages", f"is {type(value).__name__}, not a list of turns")
    if not value:
        raise RowError("messages", "has no turns")
    turns = tuple(_turn(item, f"messages[{index}]") for index, item in enumerate(value))
    if answered and all(turn.role != "assistant" for turn in turns):
        raise RowError("messages", "has no assistant turn, so there is nothing to learn from")
    _check_order(turns)
    if answered and turns[-1].role != "assistant":
        raise RowError("messages", f"ends with a {turns[-1].role} turn; the last turn must be the assistant's")
    return Conversation(turns)


def _turn(value: Any, field: str) -> Turn:
    if not isinstance(value, dict):
        raise RowError(field, "is not an object with role and content")
    present = {key: item for key, item in value.items() if item is not None}
    if {"from", "value"} <= present.keys():
        speaker = present.pop("from")
        role = _OTHER_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
        present = {"role": role, "content": present.pop("value"), **present}
    unknown = sorted(present.keys() - {"role", "content", *_EXTRA}, key=str)
    if unknown:
        raise _unknown(unknown[0], field)
    role = present.get("role")
    if role not in _ROLES:
        shown = repr(role) if role is None or is_name(role) else "none of them"
        raise RowError(f"{field}.role", f"is {shown}; write system, user, assistant or tool")
    extra = {key: _extra(present[key], key, role, field) for key in _EXTRA if present.get(key)}
    content = present.get("content", "")
    if content == "" and (role == "tool" or "tool_calls" in extra):
        return Turn(role, "", extra)
    return Turn(role, text_of(present.get("content"), f"{field}.content"), extra)


def _unknown(key: Any, field: str) -> RowError:
    """Return what is wrong with a key of a turn, which may be a value that stands in the wrong place."""
    if is_name(key):
        return RowError(f"{field}.{key}", "is not known; a turn has role and content")
    return RowError(field, "has a field that is not known; a turn has role and content")


def _extra(value: Any, key: str, role: str, field: str) -> Any:
    if key != "tool_calls":
        return text_of(value, f"{field}.{key}")
    if role != "assistant":
        raise RowError(f"{field}.{key}", f"stands in a {role} turn; tools are called by the assistant")
    return calls_of(value, f"{field}.{key}")


def _check_order(turns: tuple[Turn, ...]) -> None:
    opening = 1 if turns[0].role == "system" else 0
    wanted: tuple[str, ...] = ("user",)
    for index, turn in enumerate(turns[opening:], start=opening):
        if turn.role not in wanted:
            raise RowError(f"messages[{index}].role", f"is {turn.role}, but {' or '.join(wanted)} must speak here")
        wanted = _followers(turn)


def _followers(turn: Turn) -> tuple[str, ...]:
    """Return who may speak after a turn."""
    if turn.role == "assistant":
        return ("tool",) if "tool_calls" in turn.extra else ("user",)
    return ("assistant",) if turn.role == "user" else ("assistant", "tool")
