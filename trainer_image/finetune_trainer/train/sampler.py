"""What the model answers to the sample prompts at an evaluation: greedily, so that only training makes a difference.

Rank 0 generates alone. Under ZeRO stage 3 no process holds a whole weight, so all of them generate the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from finetune_trainer.export.answers import answer
from finetune_trainer.export.questions import turn_end
from finetune_trainer.model import attention
from finetune_trainer.model.compile import uncompiled
from finetune_trainer.prepare.formats import Format
from finetune_trainer.prepare.prompts import encode_prompts
from finetune_trainer.prepare.tokenizer import special_tokens
from finetune_trainer.train.processes import anywhere
from finetune_trainer.train.run import Run


class Sampler:
    """Asks the model that is trained."""

    def __init__(self, run: Run, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> None:
        self._run = run
        self._tokenizer = tokenizer
        self._prompts = prompts
        own = {tokenizer.eos_token_id} - {None}
        self._stop_tokens = sorted(turn_end(run.data.train, special_tokens(tokenizer)) | own)

    @classmethod
    def of(cls, run: Run, tokenizer_folder: Path, form: Format) -> "Sampler | None":
        """Return the sampler of a run; None without prompts. Raises StageFailure for one that cannot be asked."""
        if not run.spec.evaluation.sample_prompts:
            return None
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
        config = run.engine.module.transformer.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        return cls(run, tokenizer, encode_prompts(tokenizer, form, run.spec.evaluation, max_positions=positions))

    def answers(self, doing: str) -> list[str]:
        """Return the answer to each prompt; none on a process that does not generate, and none when asked to stop.

        Every process must call it.
        """
        run = self._run
        is_sharded = run.plan.zero_stage == 3
        with run.watchdog.during(doing, slow=True), run.stop.deferred():
            answers = self._generate(synced=is_sharded) if is_sharded or run.process.rank == 0 else []
            # The others wait here: in a step, so long a silence would be a hang.
            interrupted = anywhere(run.stop.requested, run.process)
        return [] if interrupted else answers

    def _generate(self, *, synced: bool) -> list[str]:
        run = self._run
        model = run.engine.module.transformer
        run.engine.train(False)
        model.set_attn_implementation("sdpa")
        try:
            with uncompiled(model):
                return answer(
                    model,
                    self._tokenizer,
                    self._prompts,
                    max_new_tokens=run.spec.evaluation.predictions.max_new_tokens,
                    stop_tokens=self._stop_tokens,
                    synced_gpus=synced,
                    stopping_criteria=StoppingCriteriaList([_Interruption(run)]),
                )
        finally:
            model.set_attn_implementation(attention.IMPLEMENTATION)
            run.engine.train(True)


class _Interruption(StoppingCriteria):  # type: ignore[misc]
    """Gives a sign of life with every token, and ends all answers when the process was asked to stop."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._run.watchdog.beat()
        return torch.full((len(input_ids),), self._run.stop.requested, device=input_ids.device)
