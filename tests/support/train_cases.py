"""Small prepared runs on disk, and the start of their processes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
from plain_models import write_adapter
from safetensors.torch import load_file

from finetune_api.run import Classes
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.processes import free_ports
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.data.places import PlaceWriter
from finetune_trainer.data.settings import settings_of
from finetune_trainer.train.stage import CPU_ENVIRONMENT, WORKER_ENVIRONMENT

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
        "OMP_NUM_THREADS": "1",
        **WORKER_ENVIRONMENT,
        **CPU_ENVIRONMENT,
    }
