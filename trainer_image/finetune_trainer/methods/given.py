"""What a method begins from beside model and spec."""

from dataclasses import dataclass
from pathlib import Path

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.model.vocabulary import new_token_ids


@dataclass(frozen=True)
class Given:
    """Local folders; None where there is none, or where nothing but shapes is asked for."""

    tokenizer: Path | None = None
    """The tokenizer as it was prepared."""
    adapter: Path | None = None
    """The adapter that is trained further."""
    new_tokens: tuple[int, ...] = ()
    """Ids of the tokens that the job adds to the vocabulary."""
    merges: bool = False
    """Whether an adapter is merged into the base model in the end."""

    @classmethod
    def of(cls, spec: FineTuneJobSpec, *, tokenizer: Path, adapter: Path) -> "Given":
        """Return what the method of a job begins from; a tokenizer that is not prepared yet counts for nothing."""
        is_prepared = tokenizer.exists()
        return cls(
            tokenizer=tokenizer if is_prepared else None,
            adapter=adapter if spec.method.initial_adapter else None,
            new_tokens=new_token_ids(tokenizer, spec.model.new_tokens) if is_prepared else (),
            merges=spec.output.merge,
        )
