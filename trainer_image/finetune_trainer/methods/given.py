"""What a method begins from beside model and spec."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Given:
    """Local folders; None where there is none, or where nothing but shapes is asked for."""

    tokenizer: Path | None = None
    """The tokenizer as it was prepared."""
    adapter: Path | None = None
    """The adapter that is trained further."""
    new_tokens: tuple[int, ...] = ()
    """Ids of the tokens that the job adds to the vocabulary."""
