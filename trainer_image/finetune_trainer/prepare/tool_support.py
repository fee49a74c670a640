"""What a chat template makes of tools: many know none and leave them out without a word.

A model trained on such rows would learn calls of functions that it is never told of, or answers to results that it
never sees. So one small conversation for each part is rendered, and rows with that part are refused if it is lost.
It is rendered with tools for a row with tools: tokenizers may have a template of their own for these.
"""

from collections.abc import Callable
from dataclasses import replace

from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.problems import RowError

_ID = "abcdefghi"
"""Mistral's templates take ids of nine letters and digits."""
_MEND = "set spec.model.chatTemplate to a template with tools, or take them out of the rows"
_USER = Turn("user", "a")
PROBED_TOOLS = ({"type": "function", "function": {"name": "probed_tool", "description": "b", "parameters": {}}},)
_CALLS = {"tool_calls": [{"id": _ID, "type": "function", "function": {"name": "probed_call", "arguments": {}}}]}
_CALLING = Turn("assistant", "", _CALLS)
_TALKING = Turn("assistant", "probed_text", _CALLS)
_RESULT = Turn("tool", "probed_result", {"tool_call_id": _ID, "name": "probed_call"})
_PROBES = {
    "probed_tool": Conversation((_USER,), PROBED_TOOLS),
    "probed_call": Conversation((_USER, _CALLING)),
    "probed_text": Conversation((_USER, _TALKING)),
    "probed_result": Conversation((_USER, _CALLING, _RESULT)),
}
"""Conversations by the word that shows whether the part in question is written out."""


class ToolSupport:
    """Tells which parts of a conversation with tools a template writes out; `apply` renders a conversation."""

    def __init__(self, apply: Callable[[Conversation], str]) -> None:
        self._apply = apply
        self._known: dict[tuple[str, bool], bool] = {}

    def check(self, conversation: Conversation) -> None:
        """Raise RowError when the template would leave out a part of the conversation."""
        has_tools = bool(conversation.tools)
        if has_tools and not self._shows("probed_tool", has_tools):
            raise RowError("tools", f"the chat template leaves tools out; {_MEND}")
        for index, turn in enumerate(conversation.turns):
            calls = "tool_calls" in turn.extra
            if calls and not self._shows("probed_call", has_tools):
                raise RowError(f"messages[{index}].tool_calls", f"the chat template leaves calls out; {_MEND}")
            if calls and turn.content and not self._shows("probed_text", has_tools):
                raise RowError(
                    f"messages[{index}].content",
                    "the chat template leaves out the text of a turn that calls tools; take it out of the rows",
                )
            if turn.role == "tool" and not self._shows("probed_result", has_tools):
                raise RowError(f"messages[{index}]", f"the chat template leaves turns of role tool out; {_MEND}")

    def _shows(self, word: str, has_tools: bool) -> bool:
        if (word, has_tools) not in self._known:
            probe = replace(_PROBES[word], tools=PROBED_TOOLS if has_tools else ())
            try:
                self._known[word, has_tools] = word in self._apply(probe)
            except RowError:
                self._known[word, has_tools] = True  # it is refused, not left out in silence
        return self._known[word, has_tools]
