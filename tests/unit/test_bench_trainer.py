"""The trainer benchmark's arithmetic: the rows, the ratios, what is told of them, and the bound of a device."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from bench_harness.errors import BenchError
from bench_harness.tables import BEGIN, END, with_tables
from finetune_trainer.data.cache import TokenCache
from trainer_bench.figures import result_line
from trainer_bench.gpu import Work, figures, peak_tflops
from trainer_bench.report import tables
from trainer_bench.rows import lengths, padded_cells, shape_of, write_rows
from trainer_bench.shapes import config_of, lora_flops
from trainer_bench.task import MAX_LENGTH, ROWS_PER_STEP, SEQUENCES_PER_STEP, Task


class Letters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {
            "input_ids": [
                ord(letter) % 500 for letter in text.replace("<|im_start|>", "<").replace("<|im_end|>", ">")
            ]
        }


@given(st.integers(1, 8))
def test_lengths_are_spread_and_fill_what_they_may(steps: int) -> None:
    total = int(0.96 * steps * SEQUENCES_PER_STEP * MAX_LENGTH)
    found = lengths(steps * ROWS_PER_STEP, total)
    assert total - len(found) <= sum(found) <= total
    assert found == sorted(found)
    assert max(found) > 4 * np.median(found)


def test_rows_that_cannot_have_so_many_tokens_are_refused() -> None:
    with pytest.raises(BenchError, match="cannot have 5000"):
        lengths(4, 5000)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_rows_fill_the_steps_of_every_contender(tmp_path: Path, steps: int) -> None:
    task = Task("lora", "fp32", steps, 1, str(tmp_path))
    write_rows(task, Letters())
    train, test = TokenCache.open(task.cache, "train"), TokenCache.open(task.cache, "test")
    assert len(train) == steps * ROWS_PER_STEP
    assert 0.9 < train.lengths.sum() / (steps * SEQUENCES_PER_STEP * MAX_LENGTH) <= 0.96
    assert 0.4 < shape_of(train).supervised_tokens / shape_of(train).tokens < 0.7
    assert len(test) > 0
    assert len(TokenCache.open(task.cache, "validation")) == 0


def test_padding_is_that_of_batches_of_eight() -> None:
    assert padded_cells(np.full(24, 7)) == 24 * 7
    assert 8 * 16 < padded_cells(np.arange(1, 17)) < 16 * 16


def test_task_survives_its_text() -> None:
    task = Task("full", "bf16", 2, 3, "/somewhere")
    assert Task.from_json(task.to_json()) == task
    assert replace(task, method="lora").learning_rate > task.learning_rate


def told(*walls: float, peak: float = 1000.0, others: float = 1.0, losses: Any = ()) -> dict[str, Any]:
    turns = [{"wall_s": wall, "cpu_s": 2 * wall, "peak_mb": peak, "others_cpu_percent": others} for wall in walls]
    return {"turns": turns, "end": {"held_out_loss": 2.5, "losses": list(losses)}}


@pytest.fixture
def document() -> dict[str, Any]:
    lora = {
        "ours": told(9.0, 2.0, 1.0, 1.0, peak=900, losses=[3.0, 2.5, 2.2]),
        "trl_packed": told(1.0, 2.0, 2.0, 1.5, peak=1000),
        "trl_default": told(1.0, 10.0, 6.0, 7.0),
        "reference": told(5.0, losses=[3.0, 2.5004]),
    }
    return {
        "settings": {"precision": "fp32", "repeats": 4, "steps": 1, "threads": 2, "methods": ["lora", "qlora"]},
        "commit": "abc",
        "machine": {"cpu": "X", "torch": "2", "transformers": "5", "trl": "1"},
        "rows": {
            "rows": 8,
            "tokens": 2000,
            "supervised_tokens": 1000,
            "shortest": 24,
            "longest": 800,
            "median": 150,
            "padding_share": 0.68,
        },
        "methods": {"lora": lora, "qlora": {"ours": told(1.0, peak=1100), "trl_packed": told(1.2)}},
        "overhead": {
            "pairs": [[9.0, 3.0], [1.01, 1.0], [1.03, 1.0], [1.05, 1.0]],
            "cpu_pairs": [[9.0, 3.0], [2.02, 2.0], [2.04, 2.0], [2.04, 2.0]],
        },
    }


def test_ratios_are_medians_of_neighbouring_passes_after_the_first(document: dict[str, Any]) -> None:
    line = result_line(document)
    assert line["lora_ratio_vs_trl_packed"] == 1.5
    assert line["lora_ratio_vs_trl_default"] == 6.0
    assert line["spread"]["lora_ratio_vs_trl_packed"] == [1.0, 2.0]
    assert line["lora_ratio_vs_trl_packed_cpu"] == 1.5
    assert line["qlora_ratio_vs_trl_packed"] == 1.2
    assert line["full_ratio_vs_trl_packed"] is None


def test_memory_is_that_of_the_worst_method(document: dict[str, Any]) -> None:
    assert result_line(document)["peak_memory_ratio"] == 1.1


def test_the_first_pair_of_steps_warms_up(document: dict[str, Any]) -> None:
    line = result_line(document)
    assert (line["loop_overhead_pct"], line["spread"]["loop_overhead_pct"]) == (3.0, [1.0, 5.0])
    assert line["loop_overhead_pct_cpu"] == 2.0


def test_losses_are_compared_after_the_same_steps(document: dict[str, Any]) -> None:
    assert result_line(document)["loss_gap"] == pytest.approx(0.0004)
    document["methods"]["lora"]["ours_fp32"] = told(1.0, losses=[3.0, 2.5003])
    assert result_line(document)["loss_gap"] == pytest.approx(0.0001)


def test_throughput_counts_supervised_and_all_tokens(document: dict[str, Any]) -> None:
    ours = result_line(document)["contenders"]["lora"]["ours"]
    assert (ours["supervised_tokens_per_s"], ours["tokens_per_s"], ours["cpu_s"]) == (1000, 2000, 2)


def test_a_turn_among_others_is_no_calm_one(document: dict[str, Any]) -> None:
    assert result_line(document)["calm"] is True
    document["methods"]["qlora"]["ours"] = told(1.0, others=30)
    assert result_line(document)["calm"] is False


def test_tables_go_between_their_marks(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "fp32.json").write_text(json.dumps(document))
    made = tables(tmp_path)
    assert "| `lora_ratio_vs_trl_packed` | 1.5 (1 to 2) | 1.5 | at least 1.7 |" in made
    assert "| lora | trl_default | 143 | 286 | 7 | 14 | 1,000 | 2.5 |" in made
    assert with_tables(f"a\n{BEGIN}\nold\n{END}\nb", made) == f"a\n{BEGIN}\n{made}\n{END}\nb"
    with pytest.raises(BenchError, match="lacks the lines"):
        with_tables("nothing", made)


def test_the_readme_shows_the_figures_of_the_runs() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/trainer"
    text = (folder / "README.md").read_text()
    assert with_tables(text, tables(folder / "results")) == text


@pytest.mark.parametrize(("name", "billions"), [("llama-3-8b", 8.03), ("qwen2.5-7b", 7.62), ("llama-3.2-1b", 1.236)])
def test_shapes_have_the_parameters_of_their_models(name: str, billions: float) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name))
    assert sum(one.numel() for one in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_flops_are_those_that_torch_counts() -> None:
    config = config_of("tiny")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    states = torch.randn(1, 64, config.hidden_size, requires_grad=True)
    model.requires_grad_(requires_grad=False)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=states).logits.sum().backward()
    # Eager attention computes the half of the matrix too that causal attention leaves out.
    masked = config.num_hidden_layers * config.hidden_size * 6 * 64 * 64
    assert lora_flops(config, [64], 64) == counter.get_total_flops() - masked
    assert lora_flops(config, [32, 32], 10) < lora_flops(config, [64], 64)
    assert lora_flops(config_of("qwen2.5-7b"), [1], 1) == pytest.approx(4 * 7.07e9, rel=0.01)


def test_speed_of_a_device_is_told_by_its_peak() -> None:
    told = figures(
        {"step_seconds": 2.0, "peak_gib": 3.0}, Work(1000, 600, 4e14), peak_tflops("NVIDIA H100 80GB HBM3")
    )
    assert told == {
        "tokens_per_s": 500,
        "supervised_tokens_per_s": 300,
        "tflops": 200,
        "mfu": 0.2022,
        "peak_gib": 3.0,
    }
    assert figures({"error": "no memory"}, Work(1, 1, 1), None) == {"error": "no memory"}
