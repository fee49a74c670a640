"""LoRA on one GPU, with random weights of a known shape: the product, TRL, and the limit of the device.

Each of them runs in a process of its own, one after the other. Nothing is fetched: the model is made on the device.
"""

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from finetune_api.status import Plan
from finetune_trainer.data.cache import SPLITS, CacheWriter, TokenCache
from finetune_trainer.data.packing import plan
from finetune_trainer.train.devices import peak_flops
from trainer_bench.limit import seconds_per_batch
from trainer_bench.rows import lengths
from trainer_bench.shapes import config_of, lora_flops
from trainer_bench.task import SEED, Task

FILL = 0.97
ROWS_PER_SEQUENCE = 8
SUPERVISED_SHARE = 0.6
WARM_UP = 3
"""Steps before the clock starts: kernels are chosen, memory is taken."""


@dataclass(frozen=True)
class Work:
    """What a run of a task computes per optimizer step, in the mean."""

    tokens: float
    supervised: float
    flops: float

    @classmethod
    def of(cls, task: Task) -> "Work":
        """Return the work of a task whose rows are written."""
        cache = TokenCache.open(task.cache, "train")
        bins = len(plan(cache.lengths, task.max_length, seed=SEED, epoch=0, packing=True))
        share = task.sequences_per_step / bins
        supervised = int(cache.supervised_counts.sum())
        flops = lora_flops(AutoConfig.from_pretrained(task.scratch.model), cache.lengths.tolist(), supervised)
        return cls(share * int(cache.lengths.sum()), share * supervised, share * flops)


def lay_out(task: Task, shape: str, *, full_rows: bool) -> None:
    """Write configuration, a stand-in tokenizer and rows of random tokens: chats of all lengths, or full rows."""
    config = config_of(shape)
    config.save_pretrained(task.scratch.model)
    _write_tokenizer(task.scratch.model)
    task.cache.mkdir(parents=True)
    sequences = task.steps * task.sequences_per_step
    rows = sequences if full_rows else sequences * ROWS_PER_SEQUENCE
    chats = [] if full_rows else lengths(rows, int(FILL * sequences * task.max_length), task.max_length)
    random = np.random.default_rng(SEED)
    for split in SPLITS:
        with CacheWriter(task.cache, split) as writer:
            for length in (chats or [task.max_length] * rows) if split == "train" else []:
                learned = max(1, int(SUPERVISED_SHARE * length))
                ids = random.integers(2, config.vocab_size, length).tolist()
                writer.append(ids, [False] * (length - learned) + [True] * learned)


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))  # noqa: S106 - no secret
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>").save_pretrained(directory)  # noqa: S106


def run_ours(task: Task) -> dict[str, Any]:
    """Train with the product's engine and loop; return the seconds of a step and the plan."""
    from finetune_trainer.model import attention
    from finetune_trainer.model.load import set_up_layers
    from finetune_trainer.train import start
    from trainer_bench.ours import LoopReporter, build, train

    def random_base(directory: Path, plan: Plan, **_: Any) -> Any:
        attention.register()
        model = _random_model(task, directory, attention.IMPLEMENTATION)
        set_up_layers(model, plan)
        return model

    class Marks(LoopReporter):
        def step(self, done: int, *, loss: float, **values: Any) -> None:
            super().step(done, loss=loss, **values)
            marks.append(time.perf_counter())

    marks: list[float] = []
    vars(start)["load_base"] = random_base
    run = build(task)
    train(run, task, Marks(run, task))
    return {"step_seconds": _step_seconds(marks), "plan": run.plan.to_wire()}


def run_trl(task: Task, *, recompute: bool) -> dict[str, Any]:
    """Train with packed TRL."""
    from trainer_bench.peer import packed, trainer_of

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            _synchronize(task)
            marks.append(time.perf_counter())

    marks: list[float] = []
    attention = _trl_attention(task)
    options = packed(task) | {"gradient_checkpointing": recompute, "max_steps": task.steps * task.repeats}
    trainer_of(task, _random_model(task, task.scratch.model, attention), Marks(), options).train()
    return {"step_seconds": _step_seconds(marks), "attention": attention}


def run_limit(task: Task) -> dict[str, Any]:
    """Time the bare matrix products of a step."""
    work, device = Work.of(task), _device(task)
    seconds = seconds_per_batch(
        AutoConfig.from_pretrained(task.scratch.model),
        tokens=int(work.tokens),
        supervised=int(work.supervised),
        device=device,
        dtype=torch.bfloat16,
    )
    return {"step_seconds": seconds}


def run_role(role: str, task: Task) -> dict[str, Any]:
    """Run one of them in this process; a lack of the GPU's memory is an answer too."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "HF_HUB_OFFLINE": "1"}
    runs = {
        "ours": lambda: run_ours(task),
        "trl_packed": lambda: run_trl(task, recompute=False),
        "trl_packed_recompute": lambda: run_trl(task, recompute=True),
        "limit": lambda: run_limit(task),
    }
    try:
        told = runs[role]()
    except torch.OutOfMemoryError as error:
        return {"error": str(error).splitlines()[0]}
    return told | {"peak_gib": _peak_gib(task)}


def figures(told: dict[str, Any], work: Work, peak_tflops: float | None) -> dict[str, Any]:
    """Return speed, and the share of the device's peak, of one that ran."""
    if "error" in told:
        return told
    seconds = told["step_seconds"]
    tflops = work.flops / seconds / 1e12
    return {
        "tokens_per_s": round(work.tokens / seconds, 1),
        "supervised_tokens_per_s": round(work.supervised / seconds, 1),
        "tflops": round(tflops, 3),
        "mfu": round(tflops / peak_tflops, 4) if peak_tflops else None,
        **{name: value for name, value in told.items() if name != "step_seconds"},
    }


def device_of(task: Task) -> dict[str, Any]:
    """Return what the figures are measured on."""
    if task.device == "cpu":
        return {"device": "cpu", "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(0)
    memory = round(properties.total_memory / 2**30, 1)
    return {"device": properties.name, "memory_gib": memory, "torch": torch.__version__}


def peak_tflops(name: str) -> float | None:
    """Return the peak of a device by its name; None when it is not known."""
    peak = peak_flops(name, "bf16")
    return peak / 1e12 if peak else None


def _random_model(task: Task, directory: Path, attention: str) -> Any:
    config = AutoConfig.from_pretrained(directory)
    torch.manual_seed(SEED)
    with torch.device(_device(task)):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)


def _trl_attention(task: Task) -> str:
    """Return the best attention that TRL can use here for packed rows."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if task.device == "gpu" and is_flash_attn_2_available() else "sdpa"


def _step_seconds(marks: list[float]) -> float:
    """Return the mean seconds of a step after the warm-up."""
    first = min(WARM_UP, len(marks) - 1) - 1
    return (marks[-1] - marks[first]) / (len(marks) - 1 - first)


def _peak_gib(task: Task) -> float:
    if task.device == "gpu":
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    from trainer_bench.turns import peak_mb

    return round(peak_mb() / 1024, 2)


def _device(task: Task) -> torch.device:
    return torch.device("cuda", 0) if task.device == "gpu" else torch.device("cpu")


def _synchronize(task: Task) -> None:
    if task.device == "gpu":
        torch.cuda.synchronize()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main_role(role: str, file: Path) -> int:
    """Run a role on the task in a file, and print what it found as the last line."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told = run_role(role, Task.from_json(file.read_text()))
    out.write(json.dumps(told) + "\n")
    out.flush()
    sys.stderr.flush()
    os._exit(0)
