"""Chat templates: the text of a conversation and where in it the loss is taken, found by rendering prefixes.

Templates say nothing about which text is the model's own. But the text that the model is given before its k-th
answer is the template applied to the turns before it with a generation prompt, and the text up to the answer's end
is the template applied to the turns up to it: the answer is what lies between. This holds for every template under
which both are prefixes of the whole, which is verified for each answer that is trained on; no template needs to be
known by name.

What the loss is taken on (`spec.data.lossOn`):

    assistant       the answers, each with the token that ends it
    lastAssistant   the last answer
    completion      everything from the first answer to the end of the last, later questions too
    all             everything up to the end of the last answer

Two things that templates do beside turns are taken care of: some write today's date (Llama's, among others), which
would give the same rows other tokens on another day, and some close a whole conversation with a token that is no
part of its last turn (Phi's).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.runtime import LoopContext
from transformers.utils.chat_template_utils import _compile_jinja_template

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec.data import LossOn
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.model_files import invalid_model
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.tool_support import PROBED_TOOLS, ToolSupport

_CLOCK = "strftime_now"
_DIRECTIVES = {
    "%d": "26",
    "%-d": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%-m": "7",
    "%Y": "2024",
    "%y": "24",
    "%a": "Fri",
    "%A": "Friday",
    "%H": "00",
    "%M": "00",
    "%S": "00",
}
"""Of the day that Llama's own templates fall back to."""


Render = Callable[..., str]
"""Text of what a template is given by name."""


class Rendered(NamedTuple):
    """A conversation's text and the spans [start, end) the loss is taken on, in characters, ascending.

    Each span begins where the model would begin to write.
    """

    text: str
    spans: list[tuple[int, int]]


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special_tokens: dict[str, str] = tokenizer.special_tokens_map
        self._support = ToolSupport(self.apply)
        self._closings: dict[bool, str] = {}

    def render(self, conversation: Conversation, loss_on: LossOn) -> Rendered:
        """Render a conversation. Raises RowError when the template refuses it or is not built up turn by turn."""
        text = self.text(conversation)
        end = len(text.removesuffix(self._closing(conversation)))
        answers = [index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"]
        if loss_on == "all":
            return Rendered(text, [(0, end)])
        if loss_on == "completion":
            return Rendered(text, [(self._start(text, conversation, answers[0]), end)])
        chosen = answers if loss_on == "assistant" else answers[-1:]
        return Rendered(text, [self._span(text[:end], conversation, index) for index in chosen])

    def text(self, conversation: Conversation) -> str:
        """Return the text of a whole conversation. Raises RowError when the template refuses or would shorten it."""
        text = self.apply(conversation)
        self._support.check(conversation)
        return text

    def _span(self, text: str, conversation: Conversation, index: int) -> tuple[int, int]:
        start, turns = self._start(text, conversation, index), conversation.turns
        if index + 1 == len(turns):
            return start, len(text)
        upto = self.apply(Conversation(turns[: index + 1], conversation.tools))
        upto = upto.removesuffix(self._closing(conversation))
        if not text.startswith(upto) or len(upto) <= start:
            raise _cannot_tell(index, is_last=False)
        return start, len(upto)

    def _start(self, text: str, conversation: Conversation, index: int) -> int:
        turns = conversation.turns
        before = self.apply(Conversation(turns[:index], conversation.tools), prompt=True)
        if not text.startswith(before) or len(before) == len(text):
            raise _cannot_tell(index, is_last=index + 1 == len(turns))
        return len(before)

    def apply(self, conversation: Conversation, *, prompt: bool = False) -> str:
        """Return the text of a conversation, with the beginning of an answer if a `prompt` is asked for.

        Raises RowError when the template refuses the conversation, StageFailure when it is no template.
        """
        tools = list(conversation.tools) or None
        try:
            template = self._with_tools if tools else self._plain
            return template(
                messages=[turn.to_column() for turn in conversation.turns],
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                **self._special_tokens,
            )
        except TemplateSyntaxError as error:
            raise StageFailure(
                ExitCode.INVALID,
                Reason.INVALID_SPEC,
                f"the chat template is not valid Jinja: line {error.lineno}: {error}",
            ) from error
        except (TemplateError, TypeError) as error:  # the second: a template that adds up what is no text
            raise RowError(
                "messages", f"the chat template refuses the conversation: {error}{_hint(conversation.turns)}"
            ) from error

    @cached_property
    def _plain(self) -> Render:
        return _compiled(self._source(None))

    @cached_property
    def _with_tools(self) -> Render:
        """A tokenizer may have a template of its own for conversations with tools."""
        return _compiled(self._source([{}]))

    def _source(self, tools: list[dict[str, Any]] | None) -> str:
        """Return the template that transformers takes. Raises StageFailure when there are several and none of it."""
        try:
            template: str = self._tokenizer.get_chat_template(tools=tools)
        except ValueError as error:
            names = ", ".join(sorted(self._tokenizer.chat_template))
            raise invalid_model(
                f"the tokenizer has chat templates called {names}, but none called default; name one so, or set"
                " spec.model.chatTemplate"
            ) from error
        return template

    def _closing(self, conversation: Conversation) -> str:
        """Return what the template of a conversation puts after the last turn when nobody goes on with it."""
        has_tools = bool(conversation.tools)
        if has_tools not in self._closings:
            self._closings[has_tools] = self._find_closing(PROBED_TOOLS if has_tools else ())
        return self._closings[has_tools]

    def _find_closing(self, tools: tuple[dict[str, Any], ...]) -> str:
        probe = Conversation((Turn("user", "a"), Turn("assistant", "b")), tools)
        try:
            closed, continued = self.apply(probe), self.apply(probe, prompt=True)
        except RowError:
            return ""
        eos = self._tokenizer.eos_token or ""
        is_closed = closed.endswith(eos) and not continued.startswith(closed)
        return eos if is_closed and continued.startswith(closed.removesuffix(eos)) else ""


def _compiled(template: str) -> Render:
    """Compile as transformers does, and render with less around it.

    Its apply_chat_template copies each conversation first, and Jinja's own `render` gathers what every template may
    call each time. A row is rendered several times, and rows of JSON have nothing that a template must be kept from.
    """
    compiled = _compile_jinja_template(_with_fixed_date(template))
    _trust_loops(compiled.environment)
    environment, known = compiled.environment, dict(compiled.globals)

    def render(**given: Any) -> str:
        context = environment.context_class(environment, known | given, compiled.name, compiled.blocks)
        return "".join(compiled.root_render_func(context))

    return render


def _trust_loops(environment: Any) -> None:
    """Let `loop.first` and the like be read at once, of which Jinja's sandbox finds each time that they are safe.

    What it asks of all else stays. Most templates read one at each turn: a tenth of the time of a row.
    """
    is_safe = type(environment).is_safe_attribute

    def is_safe_attribute(value: Any, name: str, found: Any) -> bool:
        return (type(value) is LoopContext and not name.startswith("_")) or is_safe(environment, value, name, found)

    environment.is_safe_attribute = is_safe_attribute


def _with_fixed_date(template: str) -> str:
    """Return a template that gives one date on all days."""
    if _CLOCK not in template:
        return template
    filters = "".join(f"|replace('{directive}','{value}')" for directive, value in _DIRECTIVES.items())
    # Ends in an expression: after a block Jinja would take the first line break of the template.
    return f"{{% macro {_CLOCK}(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def _hint(turns: Sequence[Turn]) -> str:
    hint = "; if it takes no system turn, write that text into the first user turn"
    return hint if turns[0].role == "system" else ""


def _cannot_tell(index: int, *, is_last: bool) -> RowError:
    mend = "" if is_last else "spec.data.lossOn: lastAssistant or "
    return RowError(
        f"messages[{index}]",
        "the chat template renders this answer differently when other turns follow or when it is asked for, so it"
        f" cannot be told apart; set {mend}spec.model.chatTemplate to a template that appends turns",
    )
