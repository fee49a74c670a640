"""The reference: plain PyTorch over the same batches in the same order, each row alone, nothing of the product's.

Its losses are what the product's must be. It takes the order of the rows from the product's plan, and nothing else:
each row goes through transformers' own forward pass by itself, so that a mistake of packing, of attention over
documents, of the head or of the scaling of the loss would show.
"""

from typing import Any

import torch

from finetune_trainer.data.batches import TrainingBatches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.schedule import schedule
from trainer_bench.adapter import adapter_of
from trainer_bench.heldout import held_out_loss, row_loss
from trainer_bench.rows import rows_of
from trainer_bench.task import MAX_GRAD_NORM, MAX_LENGTH, SEED, SEQUENCES_PER_STEP, Task
from trainer_bench.turns import Turns


def main(task: Task, turns: Turns) -> None:
    """Train all passes, as one turn."""
    torch.manual_seed(SEED)
    model = _model(task).train()
    base_loss = held_out_loss(model, task)
    turns.begin()
    losses = _train(model, task)
    turns.next()
    turns.finish(losses=losses, base_held_out_loss=base_loss, held_out_loss=held_out_loss(model, task))


def _model(task: Task) -> Any:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(task.scratch.model, dtype=torch.float32, attn_implementation="sdpa")
    adapter = adapter_of(task)
    return model if adapter is None else get_peft_model(model, adapter)


def _train(model: Any, task: Task) -> list[float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=task.learning_rate, weight_decay=0.0)
    rows, losses = rows_of(task.cache, "train"), []
    for step in _order(task):
        tokens = sum(sum(rows[row][1]) for row in step)
        total = 0.0
        for row in step:
            loss, _ = row_loss(model, *rows[row])
            torch.autograd.backward(loss / tokens)
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / tokens)
    return losses


def _order(task: Task) -> list[list[int]]:
    """Return the rows of each step."""
    cache = TokenCache.open(task.cache, "train")
    batches = TrainingBatches(cache, max_length=MAX_LENGTH, packing=True, seed=SEED)
    total = task.steps * task.repeats
    steps = schedule(batches.num_sequences, epochs=None, max_steps=total, global_batch_size=SEQUENCES_PER_STEP)
    return [
        [int(row) for rows in batches.sequences(steps, step) for row in rows] for step in range(steps.total_steps)
    ]
