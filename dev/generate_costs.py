"""Write the tables of docs/methods.md that say what each method takes at 1, 8 and 70 billion parameters.

The figures are the planner's own (`finetune_trainer.prepare`). A test makes a few lines anew: all take a minute.
Shapes as in the models' config.json (https://huggingface.co/meta-llama).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from finetune_api.spec import FineTuneJobSpec, Method
from finetune_api.status import Plan
from finetune_trainer.data.schedule import schedule
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.memory import GIB
from finetune_trainer.prepare.model_shape import ModelShape, measure
from finetune_trainer.prepare.plan import Facts, budget_of, resolve

TARGET = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
TOKENS = 4096
"""Of a packed sequence."""
BATCH = 64
PEAK_FLOPS = 989e12
"""Of an H100 in bf16, without sparsity (https://www.nvidia.com/en-us/data-center/h100/)."""
USED_SHARE = 0.4
"""Share of the peak that training of such models reaches on one GPU."""
TRAINED_TOKENS = 10_000_000
WORLDS = (1, 2, 4, 8, 16, 32, 64)
GPUS_PER_NODE = 8
SIZES: dict[str, dict[str, Any]] = {
    "1B": {"hidden": 2048, "intermediate": 8192, "layers": 16, "heads": 32, "tied": True},
    "8B": {"hidden": 4096, "intermediate": 14336, "layers": 32, "heads": 32, "tied": False},
    "70B": {"hidden": 8192, "intermediate": 28672, "layers": 80, "heads": 64, "tied": False},
}
METHODS: dict[str, dict[str, Any]] = {
    "`full`": {"type": "full"},
    "`freeze`, last 2 layers": {"type": "freeze"},
    "`lora`, rank 16": {"type": "lora"},
    "`lora` with `useDora`": {"type": "lora", "lora": {"useDora": True}},
    "`qlora`, 4 bits": {"type": "qlora"},
    "`qlora`, 8 bits": {"type": "qlora", "quantization": {"bits": 8}},
    "`ia3`": {"type": "ia3"},
    "`adapter`": {"type": "adapter"},
    "`prefix`": {"type": "prefix"},
    "`prompt`": {"type": "prompt"},
}


def config_of(size: dict[str, Any]) -> LlamaConfig:
    """Return the configuration of a Llama 3 of a size."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=size["hidden"],
        intermediate_size=size["intermediate"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=size["tied"],
    )


def spec_of(method: dict[str, Any], world: int) -> FineTuneJobSpec:
    """Return a job on so many GPUs."""
    nodes = max(1, world // GPUS_PER_NODE)
    return FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://models/base/"},
            "method": method,
            "data": {"train": [{"uri": "s3://data/rows.jsonl"}], "maxLength": TOKENS},
            "training": {"epochs": 1, "globalBatchSize": BATCH},
            "distributed": {"numNodes": nodes, "processesPerNode": world // nodes},
            "checkpoint": {"uri": "s3://runs/x/"},
            "output": {"uri": "s3://models/x/"},
        }
    )


def smallest_plan(shape: ModelShape, method: dict[str, Any]) -> Plan | None:
    """Return the plan on the fewest GPUs of 80 GB that hold the training; None when no number of them does."""
    steps = schedule(TRAINED_TOKENS // TOKENS, epochs=1, max_steps=None, global_batch_size=BATCH)
    for world in WORLDS:
        spec = spec_of(method, world)
        try:
            plan = resolve(spec, Facts(shape, steps, TOKENS, None))
        except StageFailure:  # more than any GPU holds
            continue
        if plan.estimated_bytes_per_device <= (budget_of(spec, memory_limit_bytes=None, device_bytes=None) or 0):
            return plan
    return None


def gpu_hours(plan: Plan) -> float:
    """Return the hours of one H100 for TRAINED_TOKENS.

    Two operations per weight and token forward, two for the gradient of the inputs, two for that of trained weights,
    and two more where activations are computed twice (https://arxiv.org/abs/2001.08361, section 2.1).
    """
    passes = 3 if plan.activation_checkpointing else 2
    per_token = 2 * passes * plan.total_parameters + 2 * plan.trainable_parameters
    return TRAINED_TOKENS * per_token / (USED_SHARE * PEAK_FLOPS) / 3600


def row(name: str, plan: Plan | None) -> str:
    """Return one line of a table."""
    if plan is None:
        return f"| {name} | | none holds it | | | |"
    recomputed = "recomputed" if plan.activation_checkpointing else "kept"
    memory = plan.estimated_bytes_per_device / GIB
    return (
        f"| {name} | {plan.trainable_parameters / 1e6:,.1f} M | {plan.world_size} | {plan.zero_stage}, {recomputed} |"
        f" {memory:.0f} GiB | {gpu_hours(plan):.2g} |"
    )


def line(method: str, size: str) -> str:
    """Return the line of a method in the table of a size."""
    settings = METHODS[method]
    shape = measure(config_of(SIZES[size]), Method.model_validate(settings), size)
    return row(method, smallest_plan(shape, settings))


def tables() -> Iterator[str]:
    """Yield the table of each size."""
    head = "method | trained | GPUs | ZeRO stage, activations | memory of each | GPU-hours"
    for name in SIZES:
        lines = [line(method, name) for method in METHODS]
        yield "\n".join([f"**{name}**\n", f"| {head} |", "|---|---:|---:|---|---:|---:|", *lines])


def render(page: str) -> str:
    """Return the page with new tables."""
    between = re.compile(r"(<!-- costs: .*? -->\n).*?(<!-- end of costs -->)", re.DOTALL)
    text = "\n\n".join(tables())
    return between.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


if __name__ == "__main__":
    TARGET.write_text(render(TARGET.read_text()))
