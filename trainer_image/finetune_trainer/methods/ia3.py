"""Method `ia3`: learned factors of keys, values and feed-forward activations (https://arxiv.org/abs/2205.05638)."""

from peft import IA3Config, PeftConfig
from transformers import PreTrainedModel

from finetune_api.spec import Ia3
from finetune_trainer.methods.adapter import Adapter
from finetune_trainer.model.task import task_type


class Factors(Adapter):
    """Trains one factor per feature of a few modules."""

    block = "spec.method.ia3"

    def __init__(self, settings: Ia3) -> None:
        self._settings = settings

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings; without modules of the user's, those that peft names for the architecture."""
        targets, feedforward = self._settings.target_modules, self._settings.feedforward_modules
        return IA3Config(
            task_type=task_type(model),
            target_modules=targets or None,
            feedforward_modules=(feedforward or []) if targets else None,
        )
