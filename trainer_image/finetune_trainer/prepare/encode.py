"""Encoding: from examples to tokens, with a flag on each token that the loss is taken on.

A conversation is rendered by the chat template (`template.py`, which also says what is supervised); an answer is
supervised with the token that ends the turn, so that the tuned model knows when to stop, but without the white space
that a template puts after it. Prompt and completion are used as they stand, as TRL does with plain text: the
tokenizer's own opening token if it has one, the prompt, the completion, the end-of-sequence token; no chat template
is applied. Running text is encoded likewise, and all of it but its first token is supervised. Rows with a label have
no supervised token: what is predicted is their class.

Where an answer begins, text is always cut: generation starts from the tokens of the prompt alone, so a token that
reaches over the cut could never be produced there.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

from finetune_api.spec.data import LossOn
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.conversation import Conversation
from finetune_trainer.prepare.cuts import FastTokens, TokenizedText
from finetune_trainer.prepare.formats import Completion, Document, Example, Format, Labelled
from finetune_trainer.prepare.model_files import invalid_model
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.template import ChatTemplate, Rendered
from finetune_trainer.prepare.tokenizer import special_tokens


@dataclass(frozen=True)
class Encoded:
    """Tokens of a row, and which of them are targets."""

    input_ids: "array[int]"
    """uint32."""
    supervised: bytes | bytearray
    """A 1 for each target."""
    ends: bool = True
    """Whether every answer ends with a token that says so."""
    answers_lost: int = 0
    """Answers at the end that were cut off before their first token."""

    @property
    def teaches(self) -> bool:
        """Whether there is a target with a token before it, by which it is predicted."""
        return 1 in self.supervised[1:]


class Encoder(Protocol):
    """Encodes examples of one format."""

    def encode(self, examples: Sequence[Example]) -> list[Encoded | RowError]:
        """Encode examples; one that cannot be encoded gives its error instead."""
        ...

    def shorten(self, example: Example, limit: int) -> Encoded | None:
        """Encode an example to at most `limit` tokens with its last answer whole; None where that cannot be."""
        ...


def build_encoder(tokenizer: Any, form: Format, loss_on: LossOn = "assistant") -> Encoder:
    """Return the encoder of a format. Raises StageFailure when the tokenizer lacks what the format needs."""
    if form in ("promptCompletion", "text"):
        if tokenizer.eos_token_id is None:
            raise invalid_model(
                "the tokenizer has no end-of-sequence token, so what the model writes would never end;"
                " set eos_token in tokenizer_config.json"
            )
        return CompletionEncoder(tokenizer, loss_on) if form == "promptCompletion" else TextEncoder(tokenizer)
    if form == "label":
        return LabelEncoder(tokenizer)
    if not tokenizer.chat_template:
        raise _no_template()
    return ChatEncoder(tokenizer, loss_on)


def _no_template() -> StageFailure:
    return invalid_model(
        "the tokenizer has no chat template, which a column messages needs;"
        " set spec.model.chatTemplate, or use columns of plain text"
    )


class ChatEncoder:
    """Encodes conversations through the tokenizer's chat template."""

    def __init__(self, tokenizer: Any, loss_on: LossOn) -> None:
        self._template = ChatTemplate(tokenizer)
        self._tokens = FastTokens(tokenizer)
        self._loss_on: LossOn = loss_on
        self._special = special_tokens(tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[Encoded | RowError]:
        """Encode conversations."""
        results = [self._render(example) for example in examples]
        texts = [result.text for result in results if isinstance(result, Rendered)]
        tokens = iter(self._tokens.ids(texts))
        return [result if isinstance(result, RowError) else self._mark(result, next(tokens)) for result in results]

    def shorten(self, example: Example, limit: int) -> Encoded | None:
        """Leave out as few as possible of the oldest questions with their answers, but not what the system says."""
        assert isinstance(example, Conversation)  # noqa: S101
        opening = example.turns[:1] if example.turns[0].role == "system" else ()
        questions = [index for index, turn in enumerate(example.turns) if turn.role == "user"][1:]

        @cache
        def fitting(first: int) -> Encoded | None:
            [encoded] = self.encode([replace(example, turns=opening + example.turns[first:])])
            return encoded if isinstance(encoded, Encoded) and len(encoded.input_ids) <= limit else None

        at = bisect_left(questions, True, key=lambda first: fitting(first) is not None)
        return fitting(questions[at]) if at < len(questions) else None

    def _render(self, example: Example) -> Rendered | RowError:
        assert isinstance(example, Conversation)  # noqa: S101
        try:
            return self._template.render(example, self._loss_on)
        except RowError as error:
            return error

    def _mark(self, row: Rendered, ids: "array[int]") -> Encoded:
        tokenized = self._tokens.locate(row.text, ids)
        supervised = bytearray(len(ids))
        ends = True
        for first, end in row.spans:
            start, stop = self._tokens.cut(tokenized, first), self._tokens.cut(tokenized, end)
            if start is None or stop is None:
                return self._mark_segments(row)
            turn_end = self._turn_end(tokenized, first, end)
            ends = ends and turn_end is not None
            stop = turn_end or stop
            supervised[start:stop] = b"\1" * (stop - start)
        return Encoded(ids, supervised, ends)

    def _turn_end(self, row: TokenizedText, first: int, end: int) -> int | None:
        """Return how many tokens there are up to the one that ends the turn [first, end), white space after it.

        None when there is no such token.
        """
        last = row.last_anchor(end)
        ends_turn = last is not None and last.start >= first and last.token in self._special
        if last is not None and ends_turn and not row.text[last.end : end].strip():
            return last.position + 1
        return None

    def _mark_segments(self, row: Rendered) -> Encoded:
        """Encode a row whose tokens would differ at a cut: each stretch between two cuts by itself."""
        ids = array("I")
        supervised = bytearray()
        ends = True
        bounds = [0, *(cut for span in row.spans for cut in span), len(row.text)]
        texts = [row.text[start:end] for start, end in pairwise(bounds)]
        for number, (text, tokens) in enumerate(zip(texts, self._tokens.ids(texts), strict=True)):
            # Stretches alternate: what is given, a span, what is given ...
            learned = 0
            if number % 2:
                turn_end = self._turn_end(self._tokens.locate(text, tokens), 0, len(text))
                ends = ends and turn_end is not None
                learned = turn_end or len(tokens)
            ids += tokens
            supervised += b"\1" * learned + bytes(len(tokens) - learned)
        return Encoded(ids, supervised, ends)


class CompletionEncoder:
    """Encodes prompt and completion as plain text."""

    def __init__(self, tokenizer: Any, loss_on: LossOn) -> None:
        self._end = tokenizer.eos_token_id
        self._tokens = FastTokens(tokenizer)
        self._loss_on: LossOn = loss_on
        self._opening = _opening(tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[Encoded | RowError]:
        """Encode prompts and completions."""
        prompts = self._tokens.ids([example.prompt for example in examples if isinstance(example, Completion)])
        answers = self._tokens.ids([example.completion for example in examples if isinstance(example, Completion)])
        return [self._join(*pair) for pair in zip(prompts, answers, strict=True)]

    def shorten(self, example: Example, limit: int) -> Encoded | None:
        """Leave out the beginning of the prompt, but for the token that opens every text."""
        assert isinstance(example, Completion)  # noqa: S101
        prompt, answer = self._tokens.ids([example.prompt, example.completion])
        room = limit - len(self._opening) - len(answer) - 1
        joined = self._join(prompt[-room:], answer) if room > 0 else None
        return joined if isinstance(joined, Encoded) else None

    def _join(self, prompt: "array[int]", answer: "array[int]") -> Encoded | RowError:
        given, target = self._opening + prompt, answer + array("I", [self._end])
        if not given:
            return RowError("prompt", "has no tokens, so nothing can be predicted from it")
        flags = (b"\1" if self._loss_on == "all" else b"\0") * len(given) + b"\1" * len(target)
        return Encoded(given + target, flags)


class TextEncoder:
    """Encodes documents of running text, each with the end-of-sequence token that says that it ends here."""

    def __init__(self, tokenizer: Any) -> None:
        self._end = tokenizer.eos_token_id
        self._tokens = FastTokens(tokenizer)
        self._opening = _opening(tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[Encoded | RowError]:
        """Encode documents."""
        texts = [example.text for example in examples if isinstance(example, Document)]
        return [self._close(ids) for ids in self._tokens.ids(texts)]

    def shorten(self, example: Example, limit: int) -> Encoded | None:
        """Return None: running text is cut into pieces."""
        return None

    def _close(self, tokens: "array[int]") -> Encoded | RowError:
        if not tokens:
            return RowError("text", "has no tokens")
        ids = self._opening + tokens + array("I", [] if tokens[-1] == self._end else [self._end])
        return _running(ids)


class LabelEncoder:
    """Encodes rows to classify as the tokenizer encodes any text: so any program gives the model the same tokens.

    The class is read off the last token. Padding at the end is left out, since transformers looks for the last token
    that is none.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)

    def encode(self, examples: Sequence[Example]) -> list[Encoded | RowError]:
        """Encode texts and conversations; the tokenizer spreads the texts of a batch over the cores."""
        contents = [example.content for example in examples if isinstance(example, Labelled)]
        texts = [content.text for content in contents if isinstance(content, Document)]
        encoded = iter(self._tokenizer(texts)["input_ids"] if texts else [])
        return [
            self._without_padding(next(encoded)) if isinstance(content, Document) else self._conversation(content)
            for content in contents
        ]

    def shorten(self, example: Example, limit: int) -> Encoded | None:
        """Return None: there is no answer to keep."""
        return None

    def _conversation(self, conversation: Conversation) -> Encoded | RowError:
        if not self._tokenizer.chat_template:
            raise _no_template()
        try:
            text = self._template.text(conversation)
        except RowError as error:
            return error
        return self._without_padding(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _without_padding(self, tokens: Sequence[int]) -> Encoded | RowError:
        ids = array("I", tokens)
        while ids and ids[-1] == self._tokenizer.pad_token_id:
            ids.pop()
        return Encoded(ids, bytes(len(ids))) if ids else RowError("label", "stands beside a text without tokens")


def _running(ids: "array[int]") -> Encoded:
    """Return a row of running text, of which every token but the first is a target."""
    return Encoded(ids, b"\0" + b"\1" * (len(ids) - 1))


def _opening(tokenizer: Any) -> "array[int]":
    """Return the token that the tokenizer itself puts before a text, if it is one that stands there by its role."""
    bos = tokenizer.bos_token_id
    return array("I", [bos] if list(tokenizer("")["input_ids"])[:1] == [bos] else [])


def cut(document: Encoded, limit: int) -> list[Encoded]:
    """Cut a document into rows of at most `limit` tokens.

    Each row but the first begins with the last token of the one before, which nothing predicts there: so every token
    of the document but its first is learned once, and each with a token before it.
    """
    ids = document.input_ids
    starts = range(0, max(1, len(ids) - 1), limit - 1)
    return [_running(ids[start : start + limit]) for start in starts]


def cut_off(row: Encoded, limit: int) -> Encoded:
    """Return the first tokens of a row, at most `limit` of them."""
    kept = row.supervised[:limit]
    return Encoded(row.input_ids[:limit], kept, answers_lost=_spans(row.supervised) - _spans(kept))


def _spans(supervised: bytes | bytearray) -> int:
    """Return how many stretches of targets there are: one for each answer that is learned."""
    return sum(is_target > before for before, is_target in pairwise([0, *supervised]))
