"""Chat templates: the text of a conversation and where in it the answers stand, found by rendering prefixes.

Templates say nothing about which text is the model's own. But the text that the model is given before its k-th
answer is the template applied to the turns before it with a generation prompt, and the text up to the answer's end
is the template applied to the turns up to it: the answer is what lies between. This holds for every template under
which both are prefixes of the whole, which is verified for each row; no template needs to be known by name.
"""

from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.formats import Conversation, Turn
from finetune_trainer.prepare.problems import RowError


class Rendered(NamedTuple):
    """A conversation's text and the spans [start, end) of its answers, in characters."""

    text: str
    answers: list[tuple[int, int]]


def render(tokenizer: Any, conversation: Conversation) -> Rendered:
    """Render a conversation. Raises RowError when the template refuses it or is not built up turn by turn."""
    turns, tools = conversation.turns, conversation.tools
    text = apply(tokenizer, turns, tools, prompt=False)
    answers = []
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            before = apply(tokenizer, turns[:index], tools, prompt=True)
            upto = text if index + 1 == len(turns) else apply(tokenizer, turns[: index + 1], tools, prompt=False)
            upto = _without_closing(tokenizer, upto)
            if not (text.startswith(before) and text.startswith(upto) and len(before) < len(upto)):
                raise RowError(
                    f"messages[{index}]",
                    "the chat template renders this answer differently when other turns follow or when it is asked"
                    " for, so it cannot be told apart; set spec.model.chatTemplate to a template that appends turns",
                )
            answers.append((len(before), len(upto)))
    return Rendered(text, answers)


def _without_closing(tokenizer: Any, text: str) -> str:
    """Leave out the token that some templates put behind the last turn, which is ended already (as Phi-3's does)."""
    eos = tokenizer.eos_token
    if not eos or not text.endswith(eos):
        return text
    rest = text[: -len(eos)]
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return rest if rest.rstrip().endswith(tuple(special)) else text


def apply(tokenizer: Any, turns: tuple[Turn, ...], tools: tuple[dict[str, Any], ...] = (), *, prompt: bool) -> str:
    """Return the text of turns, with what opens an answer (`prompt`). Raises RowError when the template refuses."""
    messages = [turn.to_column() for turn in turns]
    given = {"tools": list(tools)} if tools else {}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **given))
    except TemplateSyntaxError as error:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"the chat template is not valid Jinja: line {error.lineno}: {error}",
        ) from error
    except TemplateError as error:
        raise RowError("messages", f"the chat template refuses the conversation: {error}") from error
