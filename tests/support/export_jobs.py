"""What training leaves for the export stage, and what a user finds after it."""

import re
from collections.abc import Sequence
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from checkpoint_builders import commit

from finetune_api.run import OutputManifest, RunLayout, TrainResult
from finetune_api.status import CheckpointRef, EvaluationResult, Progress, Scores
from finetune_api.uris import parse_s3
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.compared import compared_rows
from finetune_trainer.data.prepared import fetch_prepared
from finetune_trainer.model import attention
from finetune_trainer.objectives import objective_of
from finetune_trainer.train.evaluation import losses_of

SCORES = Scores(loss=1.5, perplexity=4.48, token_accuracy=0.5, tokens=100)


def rows(count: int) -> list[dict]:
    return [
        {
            "id": number,
            "messages": [
                {"role": "user", "content": f"How do I reset password {number}?"},
                {"role": "assistant", "content": f"Open page {number}."},
            ],
        }
        for number in range(count)
    ]


def shift_trained(model, by: float) -> None:
    """Move trained parameters at random away from where they began."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * by)


def losses_in_training(s3_job, job, model, tmp_path: Path) -> list[float]:
    """Return what training tells the export of a model: losses on the compared rows, in the path of training."""
    prepared = fetch_prepared(s3_job.store, RunLayout(job.spec.checkpoint.uri, job.run_id), tmp_path / "told")
    rows = compared_rows(*(TokenCache.open(prepared.cache, split) for split in ("test", "train")))
    attention.register()
    loss = objective_of(job.spec, prepared.record.classes).loss_of(model, job.spec.training).eval()
    before = loss.transformer.config._attn_implementation
    loss.transformer.set_attn_implementation(attention.IMPLEMENTATION)
    found = losses_of(loss, rows, "sdpa", virtual_tokens=job.spec.method.virtual_tokens)
    loss.transformer.set_attn_implementation(before)
    return found


def commit_weights(s3_job, job, weights: Path, compared_losses: Sequence[float] = ()) -> None:
    """Leave in S3 what the training stage leaves."""
    layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
    prefix = layout.shards(step=7, writer="a1-abcdefgh")
    now = datetime.now(UTC)
    files = s3_job.store.upload_all(weights, prefix.child("rank-0/weights"))
    newest = commit(7, *files, writer="a1-abcdefgh", consumed_sequences=28, eval_loss=1.5, time=now)
    s3_job.store.put(layout.commit(7), newest.model_dump_json(by_alias=True).encode())
    result = TrainResult(
        writer="a1-abcdefgh",
        export_commit=layout.commit(7).key,
        progress=Progress(step=7, total_steps=7),
        last_checkpoint=CheckpointRef(uri=layout.commit(7).uri, step=7, time=now, size_bytes=newest.size_bytes),
        evaluation=EvaluationResult(base=SCORES, tuned=SCORES),
        compared_losses=list(compared_losses),
    )
    s3_job.store.put(layout.train_result, result.model_dump_json(by_alias=True).encode())


def download(s3_job, tmp_path: Path, beside: frozenset[str] | set[str] = frozenset()) -> Path:
    """Return the published result in a folder, each file checked against the manifest; nothing else stands there."""
    root = parse_s3(s3_job.uri("output/"))
    manifest = OutputManifest.model_validate_json(s3_job.store.read(root.child("manifest.json")))
    target = tmp_path / "published"
    s3_job.store.download_all(manifest.files, bucket=root.bucket, directory=target, strip_prefix=root.key)
    assert sorted(entry.key for entry in manifest.files) == sorted(
        f"{s3_job.uid}/{key}" for key in set(s3_job.keys("output/")) - beside if key != "output/manifest.json"
    )
    return target


def load_as_card_says(published: Path, base: Path) -> Any:
    """Run the lines of a published model card beside a folder `base`; return the model they make."""
    lines = re.search("```python\n(.*?)```", (published / "README.md").read_text(), re.DOTALL)
    (published / "base").symlink_to(base)
    made: dict[str, Any] = {}
    with chdir(published):
        exec(lines.group(1), made)  # noqa: S102 - our own
    return made["model"]


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([ids])).logits
