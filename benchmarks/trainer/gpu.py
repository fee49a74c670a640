"""`python benchmarks/trainer/gpu.py --shape llama-3-8b`: LoRA on one CUDA device, beside TRL and the device's limit.

Needs torch, transformers, peft, deepspeed and this checkout; TRL is compared with where it is installed. No network
and no weights: they are random. Ends in one line of JSON.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "harness"))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "trainer_image"))
sys.path.insert(2, str(Path(__file__).resolve().parents[2] / "api"))

from trainer_bench.gpu import Work, device_of, figures, lay_out, main_role, peak_tflops
from trainer_bench.shapes import SHAPES
from trainer_bench.task import Task

TRL = ("trl_packed", "trl_packed_recompute")


def main() -> int:
    """Measure; return the exit code."""
    options = _parser().parse_args()
    if options.role:
        return main_role(options.role, options.task)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        print(json.dumps(measure(options, Path(folder))))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the line of a shape."""
    smoke = options.smoke
    task = Task(
        method="lora",
        precision="bf16",
        steps=2 if smoke else options.steps,
        repeats=2 if smoke else 1,
        root=str(folder),
        max_length=512 if smoke else options.max_length,
        sequences_per_step=2 if smoke else options.sequences,
        device="cpu" if options.device == "cpu" else "gpu",
    )
    shape = "tiny" if smoke else options.shape
    lay_out(task, shape, full_rows=options.rows == "full")
    work, device = Work.of(task), device_of(task)
    peak = options.peak_tflops or peak_tflops(device["device"])
    roles = ["ours", *(TRL if find_spec("trl") else ()), "limit"]
    found = {role: figures(_run(role, task, folder), work, peak) for role in roles}
    what = {"shape": shape, "rows": options.rows, "max_length": task.max_length, "peak_tflops": peak}
    return {**what, **device, **ratios(found), "contenders": found}


def ratios(found: dict[str, Any]) -> dict[str, float | None]:
    """Return our speed as a multiple of the best of TRL, and as a share of the limit."""
    speeds = {role: told["tokens_per_s"] for role, told in found.items() if "tokens_per_s" in told}
    best = max((speeds[role] for role in TRL if role in speeds), default=None)
    ours = speeds.get("ours")
    return {
        "ratio_vs_trl": round(ours / best, 3) if ours and best else None,
        "share_of_matmul_limit": round(ours / speeds["limit"], 3) if ours and "limit" in speeds else None,
    }


def _run(role: str, task: Task, folder: Path) -> dict[str, Any]:
    sys.stderr.write(f"{role} ...\n")
    order = folder / "task.json"
    order.write_text(task.to_json())
    shutil.rmtree(task.scratch.staged, ignore_errors=True)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if task.device == "cpu" else {}
    command = [sys.executable, __file__, "--role", role, "--task", str(order)]
    log = folder / f"{role}.log"
    with log.open("w") as errors:
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | hidden
        )
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {log.read_text()[-2000:]}"}
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu.py", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape and four steps, to see that all runs")
    parser.add_argument("--steps", type=int, default=13, help="optimizer steps, of which three warm up (13)")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens of a packed sequence (4096)")
    parser.add_argument("--sequences", type=int, default=8, help="packed sequences per optimizer step (8)")
    parser.add_argument("--rows", choices=("chat", "full"), default="chat", help="packed chats, or full rows")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a device that is not known")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
