"""The folders of the result: the adapter, and the whole model (trained in full, or base and adapter merged).

Merging adds the adapter to the base in the base's own number format; it starts from a base that is loaded anew,
never from the model that was trained.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_trainer import log

LARGEST_SHARD = "4GB"


def assemble_adapter(weights: Path, *, tokenizer: Path, base_uri: str, target: Path) -> None:
    """Make the adapter's folder: weights, configuration that names the base model, tokenizer with its template."""
    shutil.copytree(tokenizer, target)
    shutil.copy(weights / "adapter_model.safetensors", target)
    config = json.loads((weights / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base_uri
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def assemble_model(weights: Path, *, tokenizer: Path, target: Path) -> None:
    """Make the folder of a model that was trained in full."""
    shutil.copytree(tokenizer, target)
    for path in weights.iterdir():
        shutil.copy(path, target)


def merge(base: Path, adapter: Path, *, tokenizer: Path, target: Path) -> None:
    """Make the folder of base and adapter merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", use_safetensors=True, local_files_only=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(target, max_shard_size=LARGEST_SHARD)
    shutil.copytree(tokenizer, target, dirs_exist_ok=True)
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
