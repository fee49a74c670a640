"""Sample prompts as the model is given them: encoded as the prompt of a row in the job's format is."""

from typing import Any

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Evaluation
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.encode import build_encoder
from finetune_trainer.prepare.formats import Completion, Document, Example, Format
from finetune_trainer.prepare.problems import RowError

_ANSWER = "."
"""Encoders want a whole row; what is behind the prompt is cut off again."""


def encode_prompts(
    tokenizer: Any, form: Format, evaluation: Evaluation, *, max_positions: int | None
) -> list[list[int]]:
    """Return the tokens of each sample prompt. Raises StageFailure for one that the model cannot be given."""
    prompts = evaluation.sample_prompts
    if not prompts:
        return []
    encoded = build_encoder(tokenizer, form).encode([_example(form, prompt) for prompt in prompts])
    found = []
    for number, row in enumerate(encoded):
        if isinstance(row, RowError):
            raise _refused(number, row.text)
        # All of a running text is supervised; what ends it is no part of the prompt.
        end = len(row.input_ids) - 1 if form == "text" else row.supervised.index(1)
        found.append(row.input_ids[:end].tolist())
        needed = len(found[-1]) + evaluation.predictions.max_new_tokens
        if max_positions is not None and needed > max_positions:
            raise _refused(
                number,
                f"the prompt and an answer of spec.evaluation.predictions.maxNewTokens take {needed} tokens, and the"
                f" model has {max_positions} positions; shorten the prompt, or lower maxNewTokens",
            )
    return found


def _example(form: Format, prompt: str) -> Example:
    if form == "messages":
        return Conversation((Turn("user", prompt), Turn("assistant", _ANSWER)))
    if form == "text":
        return Document(prompt)
    return Completion(prompt, _ANSWER)


def _refused(number: int, problem: str) -> StageFailure:
    message = f"spec.evaluation.samplePrompts[{number}]: {problem}"
    return StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, message)
