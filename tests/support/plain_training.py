"""What training and scoring come to in plain PyTorch: the reference of small prepared runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plain_models import plain_model
from train_cases import Case, classes_of, spec_of

from finetune_api.run import Classes
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.batches import TrainingBatches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.schedule import schedule


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
