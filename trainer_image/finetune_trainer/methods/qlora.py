"""Method `qlora`: low-rank adapters beside weights of 4 or 8 bits (https://arxiv.org/abs/2305.14314)."""

from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetune_api.spec import Lora, Quantization
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.methods.misfit import Misfit
from finetune_trainer.methods.names import paths_in_peft
from finetune_trainer.model.task import head_of


class QuantizedLowRank(LowRank):
    """Trains low-rank matrices beside weights that bitsandbytes holds."""

    def __init__(self, lora: Lora | None, quantization: Quantization, given: Given) -> None:
        super().__init__(lora, given)
        self._quantization = quantization

    def quantization(self, dtype: torch.dtype) -> BitsAndBytesConfig | None:
        """Return the numbers of the base model: every linear layer but the head."""
        return bitsandbytes_config(self._quantization, dtype)

    def adapt(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Freeze the model and add adapters in the number format of the computation."""
        from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

        keep_layout(model)
        for module in model.modules():
            if isinstance(module, Linear4bit | Linear8bitLt):
                module.register_state_dict_post_hook(_leave_out_scales)
        return super().adapt(model)

    def config(self, model: PreTrainedModel) -> PeftConfig:
        """Return peft's settings. Raises Misfit when they train the numbers of few bits, which are integers."""
        config, quantized = super().config(model), quantized_layers(model)
        for path in paths_in_peft(model, getattr(config, "modules_to_save", None) or []):
            if not quantized.isdisjoint(model.get_submodule(path).modules()):
                raise Misfit(
                    f"modulesToSave: {path} holds layers of few bits, whose weights cannot be trained; name it in"
                    " targetModules, or set spec.method.type: lora"
                )
        return config


def quantized_layers(model: PreTrainedModel) -> set[nn.Module]:
    """Return the layers that bitsandbytes quantises, or has quantised: the linear ones, the head left out."""
    head = model.get_output_embeddings() or head_of(model)
    return {module for module in model.modules() if isinstance(module, nn.Linear) and module is not head}


def _leave_out_scales(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Keep what belongs to frozen weights out of checkpoints: they are quantised anew from the base model."""
    for name in [name for name in state if name.startswith(f"{prefix}weight.") or name == f"{prefix}SCB"]:
        del state[name]
    state.pop(f"{prefix}weight_format", None)


def bitsandbytes_config(settings: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings under which transformers quantises a model while it loads it."""
    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_layout(model: PreTrainedModel) -> None:
    """Keep 4-bit weights as they are through evaluations.

    On CPUs with AVX512-BF16, bitsandbytes repacks them in place at the first forward pass in evaluation mode, and
    what reads them afterwards without knowing of it (training, merging) is wrong without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
