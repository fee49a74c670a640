"""Loading the base model: safetensors only, no code from the model's folder, no network."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.status import Plan
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.freeze import decoder_layers
from finetune_trainer.model import attention
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.norm import fuse_norms

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load_base(
    directory: Path,
    plan: Plan,
    *,
    kind: ModelKind,
    deepspeed_config: dict[str, Any],
    quantization: BitsAndBytesConfig | None,
    uri: str,
) -> PreTrainedModel:
    """Load a model on the CPU, sharded over the processes under ZeRO stage 3, or quantised on this process's device.

    Raises StageFailure when transformers cannot make a model of this kind of the folder; `uri` names it.
    """
    attention.register()
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        with _sharded(deepspeed_config, plan.zero_stage):
            model: PreTrainedModel = kind.auto_class.from_pretrained(
                directory,
                **kind.options(directory),
                dtype=DTYPES[plan.precision],
                attn_implementation=attention.IMPLEMENTATION,
                quantization_config=quantization,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError) as error:
        raise StageFailure(
            ExitCode.INVALID, Reason.INVALID_MODEL, f"{uri} cannot be loaded as a {kind}: {error}"
        ) from error
    set_up_layers(model, plan)
    return model


def set_up_layers(model: PreTrainedModel, plan: Plan) -> None:
    """Have the layers compute what they do in few passes, and keep the activations that the plan has room for."""
    fuse_norms(model)
    if plan.activation_checkpointing:
        recompute(model, every=plan.activation_checkpointing_every)


def recompute(model: PreTrainedModel, *, every: int) -> None:
    """Have the activations of every so many-th layer computed once more in the backward pass, instead of kept."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if every > 1:
        for index, layer in enumerate(decoder_layers(model)):
            cast(Any, layer).gradient_checkpointing = index % every == 0


@contextmanager
def _sharded(deepspeed_config: dict[str, Any], zero_stage: int) -> Iterator[None]:
    """While this lasts and the stage is 3, transformers creates every parameter sharded."""
    if zero_stage < 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    keep_alive = HfDeepSpeedConfig(deepspeed_config)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del keep_alive
