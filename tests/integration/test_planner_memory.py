"""The planner's memory beside what a training process really takes: three sizes of model, on the CPU."""

import os
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from extent import IS_WHOLE

from quickstart.model import build_model
from trainer_bench.contender import contenders
from trainer_bench.task import MethodName, Precision, Task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not IS_WHOLE, reason="takes half an hour and 12 GiB: make test-exact"),
]

SIZES: dict[str, dict[str, int]] = {
    "30M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
    "360M": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15},
}
"""Shapes of Llama; the last two are those of SmolLM2."""
CELLS: list[tuple[MethodName, Precision]] = [
    ("lora", "fp32"),
    ("full", "fp32"),
    ("qlora", "fp32"),
    ("freeze", "fp32"),
    ("lora", "bf16"),
    ("full", "bf16"),
]
SHARE = 0.1
"""By how much the estimate may be wrong."""
PASSES = 4
"""Of two steps each: holes in the memory of a process grow over the first six steps or so."""


@pytest.fixture(scope="module", params=SIZES)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model of a size and encoded rows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp(request.param)
    copytree(
        build_model(), folder / "model", ignore=lambda _, names: [name for name in names if "safetensors" in name]
    )
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=49152, num_key_value_heads=3, tie_word_embeddings=True, **SIZES[request.param])
    # Of 16 bits, as most are: numbers that are taken as they stand in the file keep all of it mapped, which counts.
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    with contenders(("rows",), task(folder, "lora", "fp32"), 2) as (contender,):
        contender.finish()
    return folder


def task(root: Path, method: MethodName, precision: Precision) -> Task:
    return Task(method=method, precision=precision, steps=2, repeats=PASSES, root=str(root))


@pytest.mark.parametrize(("method", "precision"), CELLS)
def test_the_estimate_is_near_the_peak(root: Path, method: MethodName, precision: Precision) -> None:
    with contenders(("ours",), task(root, method, precision), os.cpu_count() or 1) as (contender,):
        turns = [contender.turn() for _ in range(PASSES)]
        plan: dict[str, Any] = contender.finish()["plan"]
    peak, estimate = turns[-1]["peak_mb"] * 2**20, plan["estimatedBytesPerDevice"]
    sizes = f"estimate {estimate / 2**30:.2f} GiB, peak {peak / 2**30:.2f} GiB, ratio {peak / estimate:.2f}"
    print(f"{root.name} {method} {precision}: {sizes}")
    assert estimate == pytest.approx(peak, rel=SHARE)
