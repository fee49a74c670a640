"""Whole tensors out of a model that may be sharded over the processes, and back into it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from finetune_trainer.methods import Method


def gather(model: nn.Module, keys: Mapping[str, str], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return copies on the CPU of the tensors named in `keys`, by their file keys; empty unless `keep`.

    Every process must call it: under ZeRO stage 3 each tensor is put together by all.
    """
    whole = {}
    tensors = _tensors(model)
    for name, key in keys.items():
        with _whole(tensors[name], writes=False):
            if keep:
                whole[key] = tensors[name].detach().to("cpu", copy=True).contiguous()
    return whole


def whole_shape(tensor: torch.Tensor) -> torch.Size:
    """Return the shape of a tensor; a parameter that ZeRO stage 3 shards is empty, and DeepSpeed keeps its shape."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def save(model: nn.Module, method: Method, directory: Path, *, keep: bool) -> None:
    """Write the `weights/` folder of a commit, on the process with `keep`; every process must call it.

    Raises ValueError when a tensor was gathered in another shape than the model's, or when what was written is not,
    bit by bit, what was gathered: a commit that cannot be trained on from must fail while the model still lives.
    """
    keys = method.file_keys(model)
    weights = gather(model, keys, keep=keep)
    if not keep:
        return
    _check_shapes(weights, _tensors(model), keys=keys)
    method.write(model, weights, directory)
    _check_written(weights, directory)


def _check_shapes(
    weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], *, keys: Mapping[str, str]
) -> None:
    if not weights:
        raise ValueError("weights without content would be saved: none at all")
    for name, key in keys.items():
        shape = tuple(whole_shape(tensors[name]))
        found = tuple(weights[key].shape)
        if found != shape or not weights[key].numel():
            raise ValueError(
                f"weights without content would be saved: {key} has shape {found}, the model's is {shape}"
            )


def _check_written(weights: Mapping[str, torch.Tensor], directory: Path) -> None:
    missing = set(weights)
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                if key not in missing or not _same(file.get_tensor(key), weights[key]):
                    raise ValueError(f"{path}: {key} is not what the model holds; nothing of this save may be used")
                missing.remove(key)
    if missing:
        raise ValueError(f"{directory} lacks {sorted(missing)[:3]}; nothing of this save may be used")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit by bit, so that a NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def restore(model: nn.Module, method: Method, directory: Path) -> None:
    """Copy the tensors of a `weights/` folder into the model. Every process must call it, each with the folder.

    The optimizer's own copy of the weights is left as it is: this is for scoring, not for training on.
    """
    keys = {key: name for name, key in method.file_keys(model).items()}
    tensors = _tensors(model)
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in sorted(set(file.keys())):
                fill(tensors[keys.pop(key)], file.get_tensor(key))
    if keys:
        raise ValueError(f"{directory} lacks {sorted(keys)[:3]}")


def fill(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Put values of the whole shape into a tensor of the model. Every process must call it, with the same values."""
    with _whole(tensor, writes=True), torch.no_grad():
        tensor.copy_(values)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}


@contextmanager
def _whole(tensor: torch.Tensor, *, writes: bool) -> Iterator[None]:
    """While this lasts, a parameter that is sharded over the processes is whole on each."""
    if not hasattr(tensor, "ds_id"):
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([tensor], modifier_rank=0 if writes else None):
        yield
