"""What a base model is loaded as: the class of transformers, and what the job adds to its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from finetune_api.run import Classes
from finetune_trainer.model.task import head_of
from finetune_trainer.model.weights import fill, whole_shape


@dataclass(frozen=True)
class ModelKind:
    """A causal language model, or with labels a sequence classifier."""

    labels: tuple[str, ...] = ()
    """By class id."""
    pad_token_id: int | None = None
    """Token that the classifier takes for padding."""

    @classmethod
    def of(cls, classes: Classes | None) -> "ModelKind":
        """Return the kind of model that tells these classes apart; None: a language model."""
        return cls() if classes is None else cls(tuple(classes.labels), classes.pad_token_id)

    @property
    def auto_class(self) -> Any:
        """The class of transformers that loads such models."""
        return AutoModelForSequenceClassification if self.labels else AutoModelForCausalLM

    def __str__(self) -> str:
        return "sequence classifier" if self.labels else "causal language model"

    def configure(self, config: Any) -> Any:
        """Put the labels into a configuration, and return it."""
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {label: number for number, label in enumerate(self.labels)}
            config.problem_type = "single_label_classification"
            config.get_text_config().pad_token_id = self.pad_token_id
        return config

    def options(self, base: Path) -> dict[str, Any]:
        """Return what `from_pretrained` needs beside the folder of a base model, whose head is another one."""
        if not self.labels:
            return {}
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        return {"config": self.configure(config), "ignore_mismatched_sizes": True}

    def begin(self, model: PreTrainedModel, seed: int) -> None:
        """Give a classifier a new head, the same on any number of processes. Every process must call it."""
        if self.labels:
            head = head_of(model)
            assert isinstance(head, nn.Linear)  # noqa: S101 - no adapter wraps it yet
            spread = getattr(model.config.get_text_config(), "initializer_range", 0.02)
            generator = torch.Generator().manual_seed(seed)
            fill(head.weight, torch.randn(whole_shape(head.weight), generator=generator) * spread)
