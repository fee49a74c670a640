"""The weights to export: those of the commit that training names, checked before anything is made of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Commit, RunLayout, TrainResult
from finetune_api.uris import S3Location
from finetune_trainer.checkpoint import fetch_commit
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store

_WEIGHTS = "rank-0/weights/"


def read_result(store: Store, layout: RunLayout) -> TrainResult:
    """Return what training left. Raises StageFailure when it is not done."""
    if not store.exists(layout.train_result):
        raise StageFailure(
            ExitCode.INVALID,
            Reason.OBJECT_NOT_FOUND,
            f"{layout.train_result.uri} does not exist, so there is nothing to export; was it deleted?"
            " Create the job anew",
        )
    return TrainResult.model_validate_json(store.read(layout.train_result))


def fetch_weights(store: Store, layout: RunLayout, result: TrainResult, directory: Path) -> tuple[Commit, Path]:
    """Download the weights of the commit to export; return it and their folder."""
    location = S3Location(layout.root.bucket, result.export_commit)
    commit = Commit.model_validate_json(store.read(location))
    if not fetch_commit(store, layout, commit, directory, lambda name: name.startswith(_WEIGHTS)):
        raise StageFailure(
            ExitCode.STORAGE,
            Reason.STORAGE_FAILED,
            f"{location.uri}: objects of this checkpoint are gone or were altered; restore them, or create"
            " the job anew",
        )
    return commit, directory / _WEIGHTS


def check_adapter(directory: Path) -> None:
    """Raise StageFailure when an adapter is empty, torn, or was never trained."""
    shapes, trained = _scan(directory)
    _require(bool(shapes), directory, "it holds no tensors")
    empty = [name for name, size in shapes.items() if size == 0]
    _require(not empty, directory, f"{_some(empty)} have no content")
    halves = [name for name in shapes if "lora_A" in name and name.replace("lora_A", "lora_B") not in shapes]
    _require(not halves, directory, f"{_some(halves)} have no counterpart")
    second = [name for name in shapes if "lora_B" in name]
    _require(
        not second or any(trained[name] for name in second), directory, "all its lora_B are zero, so it does nothing"
    )


def check_model(directory: Path) -> None:
    """Raise StageFailure when a model holds no tensors or empty ones."""
    shapes, _ = _scan(directory)
    _require(bool(shapes), directory, "it holds no tensors")
    empty = [name for name, size in shapes.items() if size == 0]
    _require(not empty, directory, f"{_some(empty)} have no content")


def _scan(directory: Path) -> tuple[Mapping[str, int], Mapping[str, bool]]:
    """Return the number of elements of each tensor, and whether any is not zero."""
    sizes: dict[str, int] = {}
    nonzero: dict[str, bool] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor: torch.Tensor = file.get_tensor(name)
                if not torch.isfinite(tensor).all():
                    raise _defect(directory, f"{name} holds values that are no numbers")
                sizes[name] = tensor.numel()
                nonzero[name] = bool(tensor.any())
    return sizes, nonzero


def _require(holds: bool, directory: Path, problem: str) -> None:
    if not holds:
        raise _defect(directory, problem)


def _defect(directory: Path, problem: str) -> StageFailure:
    return StageFailure(
        ExitCode.INVALID,
        Reason.INVALID_MODEL,
        f"the trained weights ({directory.name}) cannot be exported: {problem}; please report this",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
