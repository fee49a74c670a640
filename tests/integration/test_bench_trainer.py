"""The trainer benchmark from end to end on a tiny model: every contender, with the method that all of them have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from extent import IS_WHOLE

from bench_harness.errors import BenchError
from trainer_bench.campaign import LINEUP, Campaign, Settings
from trainer_bench.figures import result_line
from trainer_bench.task import MethodName, Precision

pytestmark = pytest.mark.timeout(900)


def test_every_contender_trains_the_same_rows(tiny_model: Path, tmp_path: Path) -> None:
    # All contenders have LoRA, which takes twice as many processes; what they tell is read in the same way.
    method: MethodName = "lora" if IS_WHOLE else "full"
    precision: Precision = "bf16" if IS_WHOLE else "fp32"
    document = Campaign(Settings([method], precision, steps=2, repeats=1, threads=1), tiny_model, tmp_path).run()
    line = result_line(document)
    # Losses are compared in fp32, whatever the number format of the contenders.
    assert document["methods"][method]["ours"]["end"]["plan"]["precision"] == precision
    assert line["loss_gap"] < 1e-5
    assert line[f"{method}_ratio_vs_trl_packed"] > 0
    assert line["peak_memory_ratio"] > 0
    if IS_WHOLE:
        assert line["lora_ratio_vs_trl_default"] > 0
        assert line["loop_overhead_pct"] is not None
    found, roles = document["methods"][method], [role for group in LINEUP[method] for role in group]
    assert all(len(found[role]["turns"]) == 1 for role in roles)
    assert len(found["ours"]["end"]["losses"]) == 2
    # As many steps as ours: the batches are as large.
    assert all(found[role]["end"]["optimizer_steps"] == 2 for role in roles[1:])


def test_a_contender_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BenchError, match=r"rows ended with exit code 1:[\s\S]*Traceback"):
        Campaign(Settings(["lora"], "fp32", steps=1, repeats=1, threads=1), empty, tmp_path).run()


def test_gpu_benchmark_runs_everywhere() -> None:
    script = Path(__file__).parents[2] / "benchmarks/trainer/gpu.py"
    command = [sys.executable, str(script), "--device", "cpu", "--smoke"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    assert all(told["tokens_per_s"] > 0 for told in line["contenders"].values()), line
    assert 0 < line["share_of_matmul_limit"] < 1
    assert line["ratio_vs_trl"] > 0
