"""A save whose files are not the model must fail."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finetune_trainer.methods import Method
from finetune_trainer.model import weights


class _Writer:
    """Writes every tensor after `spoil` has had it; leaves out those that it makes None."""

    def __init__(self, spoil: Any) -> None:
        self.spoil = spoil

    def file_keys(self, model: nn.Module) -> dict[str, str]:
        return {name: f"base.{name}" for name, _ in model.named_parameters()}

    def write(self, model: nn.Module, tensors: Mapping[str, torch.Tensor], directory: Path) -> None:
        spoilt = {key: self.spoil(key, tensor) for key, tensor in tensors.items()}
        save_file({key: tensor for key, tensor in spoilt.items() if tensor is not None}, directory / "w.safetensors")


def _save(model: nn.Module, spoil: Any, directory: Path) -> None:
    weights.save(model, cast(Method, _Writer(spoil)), directory, keep=True)


def test_what_equals_the_model_is_saved_even_with_nan(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    nn.init.constant_(model.bias, float("nan"))
    _save(model, lambda _, tensor: tensor, tmp_path)
    assert (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda key, t: t[:0].clone() if "bias" in key else t, "base.bias is not what the model holds"),
        (lambda key, t: t + 1 if "bias" in key else t, "base.bias is not what the model holds"),
        (lambda key, t: t.half() if "bias" in key else t, "base.bias is not what the model holds"),
        (lambda key, t: None if "bias" in key else t, "lacks \\['base.bias'\\]"),
    ],
    ids=["empty", "changed", "rounded", "missing"],
)
def test_what_differs_from_the_model_fails(spoil: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _save(nn.Linear(2, 3), spoil, tmp_path)


def test_a_tensor_that_was_not_gathered_fails(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    model.bias.data = torch.empty(0)
    model.bias.ds_shape = torch.Size([3])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"base.bias has shape \(0,\), the model's is \(3,\)"):
        _save(model, lambda _, tensor: tensor, tmp_path)
    assert not list(tmp_path.iterdir())
