"""Method `ia3`: learned factors of keys, values and feed-forward activations (https://arxiv.org/abs/2205.05638)."""

from collections.abc import Mapping, Sequence

from peft import IA3Config, PeftConfig
from peft.tuners.ia3 import IA3Layer
from torch import nn
from transformers import PreTrainedModel

from finetune_api.spec import Ia3
from finetune_trainer.methods.adapter import Adapter
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.misfit import Misfit
from finetune_trainer.methods.names import names_for_peft
from finetune_trainer.model.task import task_type


class Factors(Adapter):
    """Trains one factor per feature of a few modules."""

    block = "spec.method.ia3"

    def __init__(self, settings: Ia3, given: Given) -> None:
        self._settings = settings
        self.merges = given.merges

    def named(self) -> Mapping[str, Sequence[str]]:
        """Return the modules that the spec names; those whose input is scaled are among them."""
        return {"targetModules": self._settings.target_modules}

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings; without modules of the user's, those that peft names for the architecture."""
        targets, feedforward = self._settings.target_modules, self._settings.feedforward_modules
        if not set(feedforward) <= set(targets):
            raise Misfit("feedforwardModules must stand in targetModules, too; add them there, or leave both out")
        if not targets:
            return IA3Config(task_type=task_type(model))
        scaled_before = names_for_peft(model, feedforward)
        return IA3Config(
            task_type=task_type(model),
            target_modules=[*targets, *scaled_before],
            feedforward_modules=scaled_before,
        )


def factors_of(model: nn.Module) -> set[nn.Parameter]:
    """Return the factors that are trained: vectors, though peft gives each one row or one column.

    The shape does not tell them from the matrices of LoRA of rank 1.
    """
    layers = (module for module in model.modules() if isinstance(module, IA3Layer))
    return {factor for layer in layers for factor in layer.ia3_l.parameters()}
