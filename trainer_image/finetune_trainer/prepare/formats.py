"""Formats of rows: from the columns of a row to an example, or to the field that is wrong.

    messages           {"messages": [{"role": "system"|"user"|"assistant", "content": "..."}, ...]}; "tools": [...]
    promptCompletion   {"prompt": "...", "completion": "..."}
    text               {"text": "..."}
    label              {"text": "...", "label": "..."} or {"messages": [...], "label": "..."}

Other columns are no part of an example.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune_api.spec.job import ObjectiveType
from finetune_trainer.prepare.conversation import Conversation, conversation_of, text_of
from finetune_trainer.prepare.depth import require_shallow
from finetune_trainer.prepare.problems import RowError, listed
from finetune_trainer.prepare.tools import tools_of

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
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


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
    raise RowError("columns", f"need {wanted}; found {listed(columns)}")


def parse(columns: dict[str, Any], form: Format) -> Example:
    """Return the example of a row. Raises RowError."""
    require_shallow(columns)
    if form == "label":
        return _labelled(columns)
    for column in _NEEDED[form][0]:
        if columns.get(column) is None:
            raise RowError(column, f"is missing; format {form} needs it in every row")
    if form == "text":
        return Document(text_of(columns["text"], "text"))
    if form == "promptCompletion":
        return Completion(text_of(columns["prompt"], "prompt"), text_of(columns["completion"], "completion"))
    conversation = conversation_of(columns["messages"], answered=True)
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
            return value.strip() if value.isascii() else unicodedata.normalize("NFC", value).strip()
        if isinstance(value, list):
            return [normal(item) for item in value]
        return {key: normal(item) for key, item in value.items()} if isinstance(value, dict) else value

    return _CANONICAL.encode(normal(to_columns(example))).encode(errors="surrogatepass")


def comparable(example: Example) -> Example:
    """Return what of an example makes it another one than others: ids of calls, random ones mostly, are numbers."""
    if isinstance(example, Labelled):
        content = comparable(example.content)
        assert isinstance(content, (Document, Conversation))  # noqa: S101 - as it was
        return example if content is example.content else replace(example, content=content)
    return example.with_numbered_calls() if isinstance(example, Conversation) else example


def _labelled(columns: dict[str, Any]) -> Labelled:
    text, messages = columns.get("text"), columns.get("messages")
    if (text is None) == (messages is None):
        raise RowError("text", "is missing; format label needs a text or messages, and not both, in every row")
    content = conversation_of(messages, answered=False) if text is None else Document(text_of(text, "text"))
    return Labelled(content, _label(columns.get("label")))


def _label(value: Any) -> str:
    """Return a label as text: whole numbers and truth values as JSON writes them."""
    if value is None:
        raise RowError("label", "is missing; format label needs it in every row")
    label = text_of(json.dumps(value) if isinstance(value, int) else value, "label").strip()
    if len(label) > _LONGEST_LABEL:
        raise RowError(
            "label", f"has {len(label)} characters, at most {_LONGEST_LABEL} are possible; give it a short name"
        )
    return label
