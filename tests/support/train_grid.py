"""One training process of several small runs, one after the other: a test starts it once per rank.

It runs the product's own engine and loop; only S3 is left out: commits are kept in local folders. Reads the cases
from the file named on the command line, writes what each run told to `<case's folder>/rank-<r>.json`.
"""

import gc
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copytree, move
from typing import Any

import torch.distributed as dist

from finetune_api.run import Prepared
from finetune_api.stage import StageInput
from finetune_api.status import CheckpointRef, Scores, Validation
from finetune_trainer.checkpoint import CommitMeta, Committed
from finetune_trainer.errors import StageFailure
from finetune_trainer.objectives import head
from finetune_trainer.train import start
from finetune_trainer.train.loop import Loop
from finetune_trainer.train.processes import Process, join
from finetune_trainer.train.run import Run
from finetune_trainer.train.sampler import Sampler
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.start import reshard
from finetune_trainer.train.state import join_shards, load_state
from finetune_trainer.train.stopping import StopSignal
from finetune_trainer.train.watchdog import Watchdog
from finetune_trainer.unused import hide


class LocalWriter:
    """Stands in for the checkpoint writer: keeps the folders it is handed."""

    last_error = ""
    busy = False
    signs = 0

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._news: list[Committed] = []

    def submit(self, step: int, directory: Path, meta: CommitMeta) -> bool:
        kept = self._kept / f"{step:08d}"
        kept.mkdir(parents=True, exist_ok=True)
        move(directory, kept / directory.name)
        ref = CheckpointRef(
            uri=f"file://{kept}", step=step, time=datetime.now(UTC), size_bytes=0, **meta.validation.scores
        )
        self._news.append(Committed(step, ref))
        return True

    def poll(self) -> list[Committed]:
        news, self._news = self._news, []
        return news

    def drain(self, timeout: float) -> bool:
        return True


class Recorder:
    """Stands in for the reporter."""

    def __init__(self, baseline: Scores | None) -> None:
        self.baseline = baseline.to_wire() if baseline else None
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.early: int | None = None
        self.failure: str | None = None

    def begin(self, done: int, eval_loss: float | None, last: Any, best: Any) -> None:
        pass

    def step(self, done: int, **values: Any) -> None:
        self.steps.append({"step": done, **values})

    def evaluation(self, done: int, found: Validation, best: Validation) -> None:
        self.evaluations.append({"step": done, **found.to_wire()})

    def sample(self, done: int, prompt: str, answer: str) -> None:
        self.samples.append({"step": done, "prompt": prompt, "answer": answer})

    def stopped_early(self, done: int) -> None:
        self.early = done

    def commits(self, last: Any, best: Any) -> None:
        pass


def build(case: dict[str, Any], process: Process) -> Run:
    job = StageInput.model_validate(case["job"])
    prepared, scratch = Prepared.model_validate(case["prepared"]), Scratch(Path(case["work"]))
    return start.build(job, process, prepared, scratch, Watchdog(process.rank, Path("/dev/null")), StopSignal())


def train(
    run: Run, case: dict[str, Any], folder: Path, resume_from: Path | None, *, resharded: bool = False
) -> Recorder:
    work = Path(case["work"])
    saver = Saver(LocalWriter(folder), run.engine, run.method, run.process, work / "staged" / folder.name)
    if resume_from is None:
        state = start.score_base(run)
    else:
        if run.process.local_rank == 0:
            join_shards(resume_from)
            if resharded:
                reshard(run, resume_from)
        dist.barrier()
        state = load_state(run, resume_from, resharded=resharded)
        saver.resume(int(resume_from.name), [], run.layout)
    recorder = Recorder(state.baseline)
    sampler = Sampler.of(run, work / "prepared" / "tokenizer", "messages")
    try:
        Loop(run, saver, recorder, state, sampler).train()
    except StageFailure as failure:
        recorder.failure = failure.message
    return recorder


def whole_and_resumed(case: dict[str, Any], process: Process) -> dict[str, Any]:
    """Run a case to its end, and again from the checkpoint of a step, if it names one."""
    folder = Path(case["folder"])
    run = build(case, process)
    whole = train(run, case, folder / "whole", None)
    told = {
        "offloads": _offloads(run),
        "baseline": whole.baseline,
        "steps": whole.steps,
        "evaluations": whole.evaluations,
        "samples": whole.samples,
        "stoppedEarly": whole.early,
        "failure": whole.failure,
    }
    del run
    gc.collect()
    if case["resumeAt"]:
        source = folder / "whole" / f"{case['resumeAt']:08d}"
        resumed = train(build(case, process), case, folder / "resumed", source)
        told |= {"resumed": resumed.steps, "resumedFailure": resumed.failure}
    return told


def _offloads(run: Run) -> bool:
    """Return whether DeepSpeed has the optimizer on the host, by what its stages call that."""
    return any(getattr(run.engine.optimizer, name, False) for name in ("cpu_offload", "offload_optimizer"))


def resharded(case: dict[str, Any], process: Process) -> dict[str, Any]:
    """Go on from a checkpoint of another case, that other processes or another stage may have written."""
    folder = Path(case["folder"])
    source = folder / "from" / f"{case['resumeAt']:08d}"
    if process.rank == 0:
        copytree(folder.parent / case["resumeFrom"] / "whole" / source.name, source)
    dist.barrier()
    return {"resumed": train(build(case, process), case, folder / "resumed", source, resharded=case["reshard"]).steps}


def main() -> None:
    # Tiles of 16 tokens: as in a large model, a micro-batch has several, and one process more than another.
    head.TILE_BYTES = 4 * 512 * 16
    cases = json.loads(Path(sys.argv[1]).read_text())
    hide("mlflow")
    process = join("cpu", timedelta(minutes=10))
    for case in cases:
        folder = Path(case["folder"])
        told = resharded(case, process) if case["resumeFrom"] else whole_and_resumed(case, process)
        gc.collect()
        (folder / f"rank-{process.rank}.json").write_text(json.dumps(told))
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
