"""What the model will learn, shown to people: rows with their supervised spans in brackets, in the log."""

from typing import Any

from finetune_trainer import log
from finetune_trainer.data.cache import TokenCache

ROWS = 2
_TOKENS = 400


def bracketed(tokenizer: Any, cache: TokenCache, row: int) -> str:
    """Return a row's text with each supervised span as [[...]]; a long row is cut."""
    ids, flags = cache.row(row)
    parts = []
    start = 0
    shown = min(len(ids), _TOKENS)
    for end in range(1, shown + 1):
        if end == shown or flags[end] != flags[start]:
            text = tokenizer.decode(ids[start:end].tolist(), skip_special_tokens=False)
            parts.append(f"[[{text}]]" if flags[start] else text)
            start = end
    return "".join(parts) + ("..." if shown < len(ids) else "")


def log_preview(tokenizer: Any, cache: TokenCache) -> None:
    """Log the first rows of a split."""
    for row in range(min(ROWS, len(cache))):
        log.info("row-preview", row=row, text=bracketed(tokenizer, cache, row))
