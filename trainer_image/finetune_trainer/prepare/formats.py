"""Formats of rows: from the columns of a row to an example, or to the field that is wrong.

    messages           {"messages": [{"role": "system"|"user"|"assistant", "content": "..."}, ...]}; "tools": [...]
    promptCompletion   {"prompt": "...", "completion": "..."}
    text               {"text": "..."}
    label              {"text": "...", "label": "..."} or {"messages": [...], "label": "..."}

A conversation may open with a system turn; then user and assistant take turns, beginning with user and ending with
assistant, or with either where it has a label. An assistant turn with `tool_calls` is followed by the turns of those
tools (role `tool`) and another assistant turn. Turns may also be written as `from` (human, gpt, system) and `value`.
Other columns are no part of an example.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from finetune_api.spec.job import ObjectiveType
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.tools import calls_of, tools_of

Format = Literal["messages", "promptCompletion", "text", "label"]
_COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages", "tools"),
    "promptCompletion": ("prompt", "completion"),
    "text": ("text",),
    "label": ("text", "messages", "label"),
}
_NEEDED: dict[Format, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "promptCompletion": (_COLUMNS["promptCompletion"],),
    "text": (_COLUMNS["text"],),
    "label": (("text", "label"), ("messages", "label")),
}
"""Sets of columns of which a row has to have one."""
_FORMATS: dict[ObjectiveType, tuple[Format, ...]] = {
    "sft": ("messages", "promptCompletion"),
    "pretrain": ("text",),
    "classification": ("label",),
}
"""What an objective can be trained on."""
_LONGEST_LABEL = 64
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


@dataclass(frozen=True)
class Completion:
    """An example of format promptCompletion."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Document:
    """An example of format text."""

    text: str


@dataclass(frozen=True)
class Labelled:
    """An example of format label."""

    content: Document | Conversation
    label: str


Example = Conversation | Completion | Document | Labelled


def detect(columns: dict[str, Any], objective: ObjectiveType, name_of: Callable[[str], str] = str) -> Format:
    """Tell the format of an objective from a row's columns. Raises RowError when it is none.

    `name_of` gives the name that the rows have for a column.
    """
    for name in _FORMATS[objective]:
        if any(all(column in columns for column in needed) for needed in _NEEDED[name]):
            return name
    choices = [needed for name in _FORMATS[objective] for needed in _NEEDED[name]]
    wanted = ", or ".join(" and ".join(repr(name_of(column)) for column in needed) for needed in choices)
    found = ", ".join(repr(column) for column in columns) or "none"
    raise RowError("columns", f"need {wanted}; found {found}")


def parse(columns: dict[str, Any], form: Format) -> Example:
    """Return the example of a row. Raises RowError."""
    if form == "label":
        return _labelled(columns)
    for column in _NEEDED[form][0]:
        if columns.get(column) is None:
            raise RowError(column, f"is missing; format {form} needs it in every row")
    if form == "text":
        return Document(_text(columns["text"], "text"))
    if form == "promptCompletion":
        return Completion(_text(columns["prompt"], "prompt"), _text(columns["completion"], "completion"))
    conversation = _conversation(columns["messages"], answered=True)
    return replace(conversation, tools=tools_of(columns.get("tools")))


def other_columns(columns: dict[str, Any], form: Format) -> dict[str, Any]:
    """Return the columns that are no part of the example."""
    return {name: value for name, value in columns.items() if name not in _COLUMNS[form]}


def to_columns(example: Example) -> dict[str, Any]:
    """Return the columns of an example: the inverse of parse."""
    if isinstance(example, Labelled):
        return {**to_columns(example.content), "label": example.label}
    if isinstance(example, Document):
        return {"text": example.text}
    if isinstance(example, Completion):
        return {"prompt": example.prompt, "completion": example.completion}
    messages = {"messages": [turn.to_column() for turn in example.turns]}
    return {**messages, "tools": list(example.tools)} if example.tools else messages


def canonical(example: Example) -> bytes:
    """Return the normalised row: what two rows have in common that are the same to a reader."""

    def normal(value: Any) -> Any:
        if isinstance(value, str):
            return unicodedata.normalize("NFC", value).strip()
        if isinstance(value, list):
            return [normal(item) for item in value]
        return {key: normal(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(normal(to_columns(example)), sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RowError(field, f"is {type(value).__name__}, not text")
    if not value.strip():
        raise RowError(field, "is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(field, "holds half of a surrogate pair, which is no text") from None
    return value


def _labelled(columns: dict[str, Any]) -> Labelled:
    text, messages = columns.get("text"), columns.get("messages")
    if (text is None) == (messages is None):
        raise RowError("text", "is missing; format label needs a text or messages, and not both, in every row")
    content = _conversation(messages, answered=False) if text is None else Document(_text(text, "text"))
    return Labelled(content, _label(columns.get("label")))


def _label(value: Any) -> str:
    """Return a label as text: whole numbers and truth values as JSON writes them."""
    if value is None:
        raise RowError("label", "is missing; format label needs it in every row")
    label = _text(json.dumps(value) if isinstance(value, int) else value, "label").strip()
    if len(label) > _LONGEST_LABEL:
        raise RowError(
            "label", f"has {len(label)} characters, at most {_LONGEST_LABEL} are possible; give it a short name"
        )
    return label


def _conversation(value: Any, *, answered: bool) -> Conversation:
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
        role = _OTHER_ROLES.get(present.pop("from"), value["from"])
        present = {"role": role, "content": present.pop("value"), **present}
    unknown = sorted(present.keys() - {"role", "content", *_EXTRA})
    if unknown:
        raise RowError(f"{field}.{unknown[0]}", "is not known; a turn has role and content")
    role = present.get("role")
    if role not in _ROLES:
        raise RowError(f"{field}.role", f"is {role!r}; write system, user, assistant or tool")
    extra = {key: present[key] for key in _EXTRA if present.get(key)}
    if "tool_calls" in extra:
        if role != "assistant":
            raise RowError(f"{field}.tool_calls", f"stands in a {role} turn; tools are called by the assistant")
        extra["tool_calls"] = calls_of(extra["tool_calls"], f"{field}.tool_calls")
    content = present.get("content", "")
    if content == "" and (role == "tool" or "tool_calls" in extra):
        return Turn(role, "", extra)
    return Turn(role, _text(present.get("content"), f"{field}.content"), extra)


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
