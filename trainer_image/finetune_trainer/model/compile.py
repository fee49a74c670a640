"""Layers of the decoder compiled by `torch.compile`, each by itself, for rows of any length.

All layers have the same code, so that one compilation serves them all. Attention stays outside of what is compiled:
it is a kernel of its own, and the boundaries of the documents, which differ in every micro-batch, would be compiled
into the code. The head, which works in tiles, has nothing to gain.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.freeze import decoder_layers
from finetune_trainer.model import attention


def require_compiler() -> None:
    """Raise StageFailure where there is no C++ compiler: torch writes code for one, on GPUs too."""
    wanted = os.environ.get("CXX", "g++")
    if shutil.which(wanted) is None:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"spec.training.compile needs a C++ compiler in the trainer's image, and {wanted} is not there; set"
            " spec.podTemplate.image to an image that adds it, or spec.training.compile: false",
        )


def compile_layers(model: PreTrainedModel) -> None:
    """Have each layer compiled when it is first called."""
    AttentionInterface.register(attention.IMPLEMENTATION, torch.compiler.disable(attention.attend))  # type: ignore[no-untyped-call]
    for layer in decoder_layers(model):
        layer.compile(dynamic=True)


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """While this lasts, layers run as they are written: for work that is rare and would be compiled once more."""
    compiled = {
        layer: layer._compiled_call_impl for layer in model.modules() if layer._compiled_call_impl is not None
    }
    for layer in compiled:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in compiled.items():
            layer._compiled_call_impl = call
