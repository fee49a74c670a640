"""Method `lora`: low-rank adapters beside frozen weights (https://arxiv.org/abs/2106.09685), made by peft."""

from collections.abc import Mapping, Sequence

from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora.layer import ParamWrapper
from transformers import PreTrainedModel

from finetune_api.spec import EVERY_LINEAR, Lora
from finetune_trainer.methods.adapter import Adapter
from finetune_trainer.methods.embeddings import settings_of_embeddings
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.initial_adapter import fill_from, initial_config
from finetune_trainer.methods.lora_forward import add_in_one_pass
from finetune_trainer.methods.names import names_for_peft
from finetune_trainer.methods.token_rows import replace_outputs
from finetune_trainer.model.task import labels_of, task_type


class LowRank(Adapter):
    """Trains two low-rank matrices beside each weight."""

    block = "spec.method.lora"
    advice = ', and targetModules: ["all-linear"] fits every model'

    def __init__(self, settings: Lora | None, given: Given) -> None:
        self._settings = settings
        self._given = given
        self.merges = given.merges

    def named(self) -> Mapping[str, Sequence[str]]:
        """Return the modules that the spec names; an adapter that is trained further is compared by its tensors."""
        if self._given.adapter is not None:
            return {}
        settings = self._settings or Lora()
        targets = [] if settings.adapts_every_linear else settings.target_modules
        return {"targetModules": targets, "modulesToSave": settings.modules_to_save}

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings: those of the adapter that is trained further, or the spec's."""
        if self._given.adapter is not None:
            return initial_config(self._given.adapter, self._settings, model)
        settings = self._settings or Lora()
        return LoraConfig(
            task_type=task_type(model),
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=EVERY_LINEAR if settings.adapts_every_linear else settings.target_modules,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            modules_to_save=names_for_peft(model, settings.modules_to_save) or None,
            **settings_of_embeddings(model, settings, self._given.new_tokens),
        )

    def misfit(self, problem: str) -> str:
        """Return what a user is told when peft refuses the settings."""
        if ParamWrapper.__name__ not in problem:
            return super().misfit(problem)
        return (
            f"{self.block} does not fit the model: its experts are adapted in one tensor for all, which takes neither"
            " dropout nor DoRA; set dropout: 0 and useDora: false, or leave the experts out with targetModules:"
            " [q_proj, k_proj, v_proj, o_proj]"
        )

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and add adapters in its own number format."""
        adapted = super().adapt(model)
        if self._given.adapter is not None:
            keys, copies = self.file_keys(adapted), self.copies(adapted)
            fill_from(self._given.adapter, adapted, keys, copies=copies, labels=labels_of(model))
        add_in_one_pass(adapted)
        replace_outputs(adapted)
        return adapted
