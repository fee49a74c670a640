"""The tokenizer of the base model, with the chat template of the job."""

from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Model
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.model_files import invalid_model


def load_tokenizer(directory: Path, model: Model) -> Any:
    """Load a tokenizer from local files. Raises StageFailure when they are no tokenizer that can be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise invalid_model(f"{model.uri}: the tokenizer cannot be loaded: {text}") from error
    if not tokenizer.is_fast:
        # Only these tell which characters a token stands for, which the marking of answers rests on.
        raise invalid_model(f"{model.uri}: the tokenizer has no tokenizer.json; convert it and copy the file there")
    if model.chat_template:
        tokenizer.chat_template = model.chat_template
    _add_tokens(tokenizer, model)
    return tokenizer


def _add_tokens(tokenizer: Any, model: Model) -> None:
    """Add spec.model.newTokens. Raises StageFailure for one that is a token already, or stands there twice."""
    known = tokenizer.get_vocab()
    for place, token in enumerate(model.new_tokens):
        if token in known or token in model.new_tokens[:place]:
            raise StageFailure(
                ExitCode.INVALID,
                Reason.INVALID_SPEC,
                f"spec.model.newTokens[{place}]: {token!r} is a token already; remove it from the list",
            )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in model.new_tokens])


def ensure_padding(tokenizer: Any, model: Model, *, vocabulary: int) -> None:
    """Give a tokenizer without a token for padding its end of sequence: batches of rows to classify are filled up.

    Raises StageFailure when it has neither, or only ones that the model has no embedding for.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= vocabulary:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= vocabulary:
        raise invalid_model(
            f"{model.uri}: the tokenizer has no padding and no end-of-sequence token that the model has an embedding"
            " for, so that a classifier could not read rows side by side; set pad_token in tokenizer_config.json"
        )


def special_tokens(tokenizer: Any) -> set[int]:
    """Return the tokens that stand for no text: those with a role, and those that were added as special."""
    added = tokenizer.added_tokens_decoder.items()
    return set(tokenizer.all_special_ids) | {token for token, content in added if content.special}
