"""The contenders `trl_default` and `trl_packed`: TRL's SFTTrainer on the same encoded rows.

    trl_default  its own defaults: batches of eight padded rows, activations computed twice
    trl_packed   the fastest that it can do here: packed rows, activations kept (the product keeps them too), torch's
                 own attention with a mask of documents (its flash attention wants a GPU), one sequence at a time (the
                 mask has a cell for each pair of tokens: two sequences in one batch take it longer)

Both use the fused head that TRL has by default, and the number format, optimizer and learning rate of the others.
"""

from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from trainer_bench.adapter import adapter_of
from trainer_bench.heldout import held_out_loss
from trainer_bench.rows import rows_of
from trainer_bench.task import MAX_GRAD_NORM, SEED, Task
from trainer_bench.turns import Turns

IGNORED = -100
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TurnCallback(TrainerCallback):  # type: ignore[misc]
    """Takes a turn for each pass over the rows."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self._turns.begin()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Wait for the next one."""
        self._turns.next()


def main_default(task: Task, turns: Turns) -> None:
    """Train with TRL's defaults."""
    _train(trainer_of(task, _model(task), TurnCallback(turns), {}), task, turns)


def main_packed(task: Task, turns: Turns) -> None:
    """Train as fast as TRL can."""
    trainer = trainer_of(task, _model(task), TurnCallback(turns), packed(task))
    _train(trainer, task, turns)


def packed(task: Task) -> dict[str, Any]:
    """Return the settings of the fastest way."""
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": task.sequences_per_step}
    return {"packing": True, "gradient_checkpointing": False, **accumulated}


def trainer_of(task: Task, model: Any, callback: TrainerCallback, options: dict[str, Any]) -> Any:
    """Return TRL's trainer of a model on the rows of a task."""
    common = {
        "output_dir": str(task.scratch.root / "trl"),
        "max_length": task.max_length,
        "num_train_epochs": task.repeats,
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": MAX_GRAD_NORM,
        "bf16": task.precision == "bf16",
        "seed": SEED,
        "use_cpu": task.device == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SFTTrainer(
        model=model,
        args=SFTConfig(**(common | options)),
        train_dataset=_dataset(task),
        processing_class=AutoTokenizer.from_pretrained(task.scratch.model),
        peft_config=adapter_of(task),
        callbacks=[callback],
    )


def _train(trainer: Any, task: Task, turns: Turns) -> None:
    trainer.train()
    steps = trainer.state.global_step
    turns.finish(held_out_loss=_score(trainer.model, task), optimizer_steps=steps)


def _score(model: Any, task: Task) -> float:
    # TRL has replaced the model's forward by one without logits.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    vars(base).pop("forward", None)
    return held_out_loss(base, task)


def _model(task: Task) -> Any:
    """Return the model; TRL trains weights of 32 bits also where it computes in 16."""
    quantization = None
    if task.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[task.precision],
        )
    return AutoModelForCausalLM.from_pretrained(
        task.scratch.model, dtype=torch.float32, quantization_config=quantization, attn_implementation="sdpa"
    )


def _dataset(task: Task) -> Any:
    rows = rows_of(task.cache, "train")
    labels = [[token if flag else IGNORED for token, flag in zip(*row, strict=True)] for row in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})
