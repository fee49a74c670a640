"""The folders of the result: the adapter, and the whole model (trained in full, or base and adapter merged).

Merging adds the adapter to the base in the base's own number format; it starts from a base that is loaded anew,
never from the model that was trained.
"""

import json
import shutil
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from finetune_api.spec import Quantization
from finetune_trainer import log
from finetune_trainer.methods.adapter import COPIES
from finetune_trainer.methods.bottleneck import LOADER
from finetune_trainer.methods.freeze import TRAINED_TENSORS
from finetune_trainer.methods.qlora import bitsandbytes_config, keep_layout
from finetune_trainer.methods.soft_prompts import write_projected
from finetune_trainer.model.kind import ModelKind

LARGEST_SHARD = "4GB"


def assemble_adapter(weights: Path, *, tokenizer: Path, base_uri: str, target: Path) -> None:
    """Make the adapter's folder: weights, configuration that names the base model, tokenizer with its template."""
    shutil.copytree(tokenizer, target)
    config = json.loads((weights / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base_uri
    if (weights / TRAINED_TENSORS).exists():
        write_projected(weights, target)
        config["prefix_projection"] = False
    else:
        shutil.copytree(weights, target, dirs_exist_ok=True)
        _write_copies(target / SAFETENSORS_WEIGHTS_NAME)
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_copies(path: Path) -> None:
    """Write what an adapter stores once, and peft reads in two places, twice."""
    with safe_open(path, framework="pt") as file:
        copies: dict[str, str] = json.loads((file.metadata() or {}).get(COPIES, "{}"))
    if copies:
        tensors = load_file(path)
        again = {key: tensors[source].clone() for key, source in copies.items()}
        save_file({**tensors, **again}, path, metadata={"format": "pt"})


def load_adapter(base: PreTrainedModel, directory: Path) -> PeftModel | PreTrainedModel:
    """Load an adapter into its base model as a user does: with peft, or by the file that stands beside it."""
    loader = directory / LOADER
    if not loader.exists():
        return PeftModel.from_pretrained(base, directory).eval()
    spec = spec_from_file_location(loader.stem, loader)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - a file of Python
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model: PreTrainedModel = module.load(base, directory)
    return model.eval()


def assemble_model(weights: Path, *, kind: ModelKind, tokenizer: Path, target: Path) -> None:
    """Make the folder of a model that was trained in full, with the tensors that files of its architecture have.

    A commit has those of the model: of a mixture, one tensor for all experts of a layer.
    """
    config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = kind.auto_class.from_config(config, dtype=config.dtype)
    tensors = {name: tensor for path in weights.glob("*.safetensors") for name, tensor in load_file(path).items()}
    shutil.copytree(tokenizer, target)
    model.save_pretrained(target, state_dict=tensors, max_shard_size=LARGEST_SHARD)


def write_config(base: Path, kind: ModelKind, *, target: Path) -> None:
    """Write the base's own configuration with the labels beside an adapter, which alone does not say them.

    With it a reader loads the base from its files, which have no rows for new tokens: the next line adds these.
    """
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    kind.configure(config).save_pretrained(target)


def assemble_partial(base: Path, weights: Path, *, kind: ModelKind, tokenizer: Path, target: Path) -> None:
    """Make the folder of the base model with the tensors that were trained in the place of its own."""
    model = load_base(base, None, kind)
    trained = load_file(weights / TRAINED_TENSORS)
    outcome = model.load_state_dict(trained, strict=False)
    if outcome.unexpected_keys:
        raise ValueError(f"the base model has no place for {outcome.unexpected_keys[:3]}")
    shutil.copytree(tokenizer, target)
    model.save_pretrained(target, max_shard_size=LARGEST_SHARD)


def load_base(directory: Path, quantization: Quantization | None, kind: ModelKind) -> PreTrainedModel:
    """Load a base model in its own number format, or quantised as it was trained on; a head for labels is random."""
    dtype = AutoConfig.from_pretrained(directory, local_files_only=True).dtype or torch.float32
    config = None if quantization is None else bitsandbytes_config(quantization, dtype)
    return _load(directory, kind, dtype=dtype, quantization_config=config, **kind.options(directory))


def load_result(directory: Path, kind: ModelKind) -> PreTrainedModel:
    """Load a model that was trained in full or merged, as anyone would."""
    dtype = AutoConfig.from_pretrained(directory, local_files_only=True).dtype or torch.float32
    return _load(directory, kind, dtype=dtype)


def _load(directory: Path, kind: ModelKind, **options: Any) -> PreTrainedModel:
    model: PreTrainedModel = kind.auto_class.from_pretrained(
        directory,
        **options,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    keep_layout(model)
    return model.eval()


def merge(
    base: Path, adapter: Path, *, kind: ModelKind, quantization: Quantization | None, tokenizer: Path, target: Path
) -> None:
    """Make the folder of base and adapter merged.

    An adapter that was trained beside a quantised base is added to what those few bits stand for: to the original
    weights it does not belong.
    """
    model = load_base(base, quantization, kind)
    if quantization is not None:
        model = model.dequantize()
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    shutil.copytree(tokenizer, target)
    merged.save_pretrained(target, max_shard_size=LARGEST_SHARD)
    log.info("merged", dtype=str(merged.dtype))


def write_generation_config(target: Path, base: Path, *, stop_tokens: Iterable[int]) -> None:
    """Write the base's generation settings, with the tokens that end an answer as they were trained."""
    source = base / "generation_config.json"
    settings = json.loads(source.read_text()) if source.exists() else {}
    settings["eos_token_id"] = sorted(stop_tokens)
    (target / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def base_stop_tokens(base: Path) -> set[int]:
    """Return the tokens that end generation by the base's own settings."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = base / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        found |= {value} if isinstance(value, int) else set(value or ())
    return found
