"""Small prepared runs on disk, a plain PyTorch reference for them, and the start of their processes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file

from finetune_api.run import Classes
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.processes import free_ports
from finetune_trainer.data.batches import TrainingBatches
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.data.places import PlaceWriter
from finetune_trainer.data.schedule import schedule
from finetune_trainer.data.settings import settings_of
from finetune_trainer.train.stage import WORKER_ENVIRONMENT

GRID = Path(__file__).with_name("train_grid.py")
VOCABULARY = 500


@dataclass
class Case:
    """One run: what differs from the small default."""

    name: str
    method: str = "full"
    zero_stage: int = 0
    world_size: int = 1
    micro_batch_size: int = 2
    precision: str = "fp32"
    offload: bool = False
    packing: bool = True
    checkpointing: bool = False
    checkpointing_every: int = 1
    steps: int = 4
    resume_at: int = 0
    rows: int = 40
    """Rows to train on."""
    classes: int = 0
    """Classes that the rows have, for objective classification."""
    resume_from: str = ""
    """Another case, whose checkpoint of that step is resumed; empty: the case's own."""
    reshard: bool = True
    """Whether that case has another number of processes or another ZeRO stage."""
    spec: dict[str, Any] = field(default_factory=dict)


def write_cache(directory: Path, *, rows: int = 40, seed: int = 0, classes: int = 0) -> None:
    """Write random rows of 5 to 60 tokens, the later part of each supervised, or with one of so many classes."""
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    for split, count in (("train", rows), ("validation", rows // 4), ("test", rows // 4)):
        labelled = classes > 0
        with CacheWriter(directory, split, labelled=labelled) as writer, PlaceWriter(directory, split) as places:
            for line in range(1, count + 1):
                places.append("rows.jsonl:", line)
                length = int(random.integers(5, 61))
                # A few tokens make most of the text, so that there is something to learn.
                ids = (random.zipf(1.5, length) % VOCABULARY).tolist()
                begin = length if classes else int(random.integers(1, length))
                label = ids[0] % classes if classes else None
                writer.append(ids, [position >= begin for position in range(length)], label)


def spec_of(case: Case) -> dict[str, Any]:
    """Return the spec of a case."""
    blocks: dict[str, Any] = {
        "model": {"uri": "s3://bucket/model/"},
        "objective": "classification" if case.classes else "sft",
        "method": {"type": case.method},
        "data": {"train": [{"uri": "s3://bucket/rows/"}], "maxLength": 96, "packing": case.packing},
        "training": {
            "maxSteps": case.steps,
            "globalBatchSize": 6,
            "learningRate": 5e-3,
            "warmup": 2,
            "precision": case.precision,
            "optimizer": {"maxGradNorm": 0.5, "weightDecay": 0.01},
        },
        "distributed": {
            "device": "cpu",
            "processesPerNode": case.world_size,
            "zeroStage": case.zero_stage,
            "offloadOptimizer": "on" if case.offload else "auto",
        },
        "evaluation": {"everySteps": 0, "baseline": False},
        "checkpoint": {"uri": "s3://bucket/runs/", "everySteps": case.resume_at, "everyMinutes": 0},
        "output": {"uri": "s3://bucket/output/"},
    }
    for name, values in case.spec.items():
        blocks[name] = {**blocks.get(name, {}), **values}
    return blocks


def plan_of(case: Case) -> dict[str, Any]:
    """Return the plan of a case."""
    per_process = -(-spec_of(case)["training"]["globalBatchSize"] // case.world_size)
    return {
        "zeroStage": case.zero_stage,
        "worldSize": case.world_size,
        "microBatchSize": case.micro_batch_size,
        "gradientAccumulationSteps": -(-per_process // case.micro_batch_size),
        "activationCheckpointing": case.checkpointing,
        "activationCheckpointingEvery": case.checkpointing_every,
        "offloadOptimizer": case.offload,
        "attention": "sdpa",
        "precision": case.precision,
        "totalSteps": case.steps,
        "totalParameters": 100_000,
        "trainableParameters": 100_000,
        "estimatedBytesPerDevice": 0,
    }


def classes_of(case: Case, cache: Path) -> Classes | None:
    """Return the classes of a case's rows; the token for padding stands in none."""
    if not case.classes:
        return None
    labels = TokenCache.open(cache, "train").class_labels
    rows = np.bincount(labels, minlength=case.classes).tolist()
    return Classes(labels=[f"label {number}" for number in range(case.classes)], rows=rows, pad_token_id=VOCABULARY)


def wire(case: Case, work: Path, folder: Path) -> dict[str, Any]:
    """Return what a grid process is told of a case."""
    split: dict[str, Any] = {}
    data = {"format": "messages", "train": split, "validation": split, "test": split, "digest": "0" * 64}
    job = {"name": case.name, "namespace": "test", "uid": case.name, "attempt": 1, "spec": spec_of(case)}
    prepared = {
        "writer": "test",
        "files": [],
        "modelFiles": [],
        "data": data,
        "plan": plan_of(case),
        "classes": classes.to_wire() if (classes := classes_of(case, work / "prepared" / "cache")) else None,
        "settings": settings_of(FineTuneJobSpec.model_validate(spec_of(case))),
        "configDigest": "0" * 64,
    }
    folder.mkdir(parents=True)
    return {
        "job": job,
        "prepared": prepared,
        "work": str(work),
        "folder": str(folder),
        "resumeAt": case.resume_at,
        "resumeFrom": case.resume_from,
        "reshard": case.reshard,
    }


def weights_of(folder: Path, step: int) -> dict[str, Any]:
    """Return the tensors of the `weights/` folder that a run committed after a step."""
    return load_file(next((folder / f"{step:08d}" / "rank-0" / "weights").glob("*.safetensors")))


def run_cases(tiny_model: Path, root: Path, cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Run cases of one world size in one set of processes; return what rank 0 was told in each."""
    world_size = cases[0].world_size
    told = [wire(case, work_of(tiny_model, root, case), root / case.name) for case in cases]
    listed = root / f"cases-{world_size}.json"
    listed.write_text(json.dumps(told))
    run_processes([sys.executable, str(GRID), str(listed)], world_size)
    return {case.name: json.loads((root / case.name / "rank-0.json").read_text()) for case in cases}


def work_of(tiny_model: Path, root: Path, case: Case) -> Path:
    """Return the folder that the cases of one world size and one kind of rows share, made at need."""
    kind = "-classes" if case.classes else "" if case.rows == Case.rows else f"-{case.rows}"
    work = root / f"work-{case.world_size}{kind}"
    if not work.exists():
        copytree(tiny_model, work / "model")
        write_cache(work / "prepared" / "cache", rows=case.rows, classes=case.classes)
        copytree(tiny_model, work / "prepared" / "tokenizer")
        write_adapter(tiny_model, work / "adapter")
    return work


def run_processes(command: Sequence[str], world_size: int) -> None:
    """Run one process per rank to the end; the first failure ends all and is shown."""
    (port,) = free_ports(1)
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **rank_environment(rank, world_size, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=3000)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [output for process, output in zip(processes, outputs, strict=True) if process.returncode != 0]
    assert not failed, failed[0][-6000:]


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return the variables that the launcher sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        **WORKER_ENVIRONMENT,
    }


@dataclass(frozen=True)
class Series:
    """What a reference run tells of its steps."""

    losses: list[float]
    grad_norms: list[float]


def reference(tiny_model: Path, cache_dir: Path, case: Case) -> Series:
    """Train a case in plain PyTorch: one process, each row alone through transformers' own forward pass."""
    import torch

    from finetune_trainer.train.lr import LearningRate

    spec = FineTuneJobSpec.model_validate(spec_of(case))
    classes = classes_of(case, cache_dir)
    method, new_tokens = spec_of(case)["method"], spec.model.new_tokens
    model = plain_model(tiny_model, method, classes, seed=spec.training.seed, new_tokens=new_tokens)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = [parameter for _, parameter in named]
    decay = [parameter for name, parameter in named if parameter.ndim > 1 and ".ia3_l." not in name]
    rest = [parameter for name, parameter in named if parameter.ndim <= 1 or ".ia3_l." in name]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    cache = TokenCache.open(cache_dir, "train")
    virtual = spec.method.virtual_tokens
    batches = TrainingBatches(
        cache, max_length=96, packing=case.packing, seed=spec.training.seed, virtual_tokens=virtual
    )
    steps = schedule(batches.num_sequences, epochs=None, max_steps=case.steps, global_batch_size=6)
    rate = LearningRate.of(spec.training, steps.total_steps)
    series = Series([], [])
    for step in range(steps.total_steps):
        taken = [int(row) for rows in batches.sequences(steps, step) for row in rows]
        loss = _label_loss(model, cache, taken, classes) if classes else _token_loss(model, cache, taken)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        series.losses.append(loss.item())
        series.grad_norms.append(norm.item())
    return series


def plain_model(
    tiny_model: Path,
    method: dict[str, Any],
    classes: Classes | None = None,
    *,
    seed: int = 42,
    new_tokens: Sequence[str] = (),
) -> Any:
    """Return the model of a method as its libraries' documentation makes it; a new head begins as it does here."""
    import torch
    from transformers import BitsAndBytesConfig

    from finetune_trainer.model.kind import ModelKind

    quantization = None
    if method["type"] == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
        if method.get("quantization", {}).get("bits") == 8:
            quantization = BitsAndBytesConfig(load_in_8bit=True)
    kind = ModelKind.of(classes)
    model = kind.auto_class.from_pretrained(
        tiny_model,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=quantization,
        **kind.options(tiny_model),
    )
    kind.begin(model, seed)
    torch.manual_seed(seed)
    model = _adapted(tiny_model, model, method, "SEQ_CLS" if classes else "CAUSAL_LM", new_tokens)
    return model.train()  # in evaluation mode, bitsandbytes computes 4 bits in bf16 on CPUs that have it


def write_adapter(tiny_model: Path, directory: Path) -> None:
    """Write an adapter as peft does, with the matrix that is embeddings and head; the same at every call."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    saved = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=10, target_modules=["q_proj", "up_proj"], **saved)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:  # peft draws these at random
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
            elif parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    model.save_pretrained(directory, save_embedding_layers=False)


def _adapted(tiny_model: Path, model: Any, method: dict[str, Any], task: str, new_tokens: Sequence[str]) -> Any:
    import torch
    from peft import IA3Config, PrefixTuningConfig, PromptTuningConfig, get_peft_model

    if method["type"] == "freeze":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(("model.layers.1.", "model.norm", "score"))
    if method["type"] in ("lora", "qlora"):
        model = _low_rank(tiny_model, model, method, task, new_tokens)
    if method["type"] == "ia3":
        model = get_peft_model(model, IA3Config(task_type=task), autocast_adapter_dtype=False)
    if method["type"] == "prompt":
        config = PromptTuningConfig(task_type=task, num_virtual_tokens=20, prompt_tuning_init="SAMPLE_VOCAB")
        model = get_peft_model(model, config)
    if method["type"] == "prefix":
        model = get_peft_model(model, PrefixTuningConfig(task_type=task, num_virtual_tokens=20))
        torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.02)
    if method["type"] == "adapter":
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.mlp = _with_bottleneck(layer.mlp)
    return model


def _low_rank(tiny_model: Path, model: Any, method: dict[str, Any], task: str, new_tokens: Sequence[str]) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoTokenizer

    if "initialAdapter" in method:
        with TemporaryDirectory() as folder:
            write_adapter(tiny_model, Path(folder))
            return PeftModel.from_pretrained(model, folder, is_trainable=True)
    options: dict[str, Any] = {"use_dora": method.get("lora", {}).get("useDora", False)}
    if new_tokens:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        options["trainable_token_indices"] = tokenizer.convert_tokens_to_ids([*new_tokens])
    config = LoraConfig(task_type=task, r=16, lora_alpha=32, target_modules="all-linear", **options)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _with_bottleneck(mlp: Any) -> Any:
    """Return feed-forward of width 64 with an adapter of width 4 behind it."""
    import torch

    class Behind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.down, self.up = mlp, torch.nn.Linear(64, 4), torch.nn.Linear(4, 64)
            torch.nn.init.zeros_(self.up.weight)
            torch.nn.init.zeros_(self.up.bias)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            fed = self.mlp(hidden)
            return fed + self.up(torch.relu(self.down(fed)))

    return Behind()


def _label_loss(model: Any, cache: TokenCache, rows: list[int], classes: Classes) -> Any:
    """Return the mean over rows, in a plain loop, of balanced cross-entropies of transformers' own classifier."""
    import torch

    total, losses, weights = sum(classes.rows), [], []
    for row in rows:
        label = int(cache.class_labels[row])
        ids = torch.from_numpy(cache.row(row)[0].astype(np.int64))[None]
        weights.append(total / (len(classes.rows) * classes.rows[label]))
        losses.append(weights[-1] * model(input_ids=ids, labels=torch.tensor([label])).loss)
    return torch.stack(losses).sum() / sum(weights)


def base_loss(tiny_model: Path, cache_dir: Path) -> float:
    """Return the mean loss of the test rows by the base model, as transformers computes it."""
    import torch

    cache = TokenCache.open(cache_dir, "test")
    with torch.no_grad():
        loss: float = _token_loss(_base(tiny_model), cache, list(range(len(cache)))).item()
    return loss


def _base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")


def _token_loss(model: Any, cache: TokenCache, rows: list[int]) -> Any:
    import torch

    return torch.cat([_row_loss(model, *cache.row(row)) for row in rows]).mean()


def _row_loss(model: Any, tokens: Any, flags: Any) -> Any:
    import torch

    ids = torch.from_numpy(tokens.astype(np.int64))
    supervised = torch.from_numpy(flags.astype(bool))[1:]
    logits = model(input_ids=ids[None]).logits[0, -len(ids) : -1]  # virtual tokens have logits too
    return torch.nn.functional.cross_entropy(logits[supervised], ids[1:][supervised], reduction="none")
