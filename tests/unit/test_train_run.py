"""What a run may hold at once."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.jobs import minimal_job
from finetune_trainer.data.batches import TrainingBatches, row_batches
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.train.run import Run


def cache_of(directory, split, lengths):
    with CacheWriter(directory, split) as writer:
        for length in lengths:
            writer.append(list(range(length)), [position > 0 for position in range(length)])
    return TokenCache.open(directory, split)


@pytest.mark.parametrize("packing", [True, False])
def test_an_evaluation_batch_holds_no_more_than_a_training_batch_may(tmp_path, packing):
    """The micro-batch was chosen for the sequences that there are, which may be far below data.maxLength."""
    spec = FineTuneJobSpec.model_validate(minimal_job(data={"maxLength": 2048})["spec"])
    train, validation = (cache_of(tmp_path, split, [12] * 40) for split in ("train", "validation"))
    batches = TrainingBatches(train, max_length=24, packing=packing, seed=1)
    parts = {
        "job": SimpleNamespace(spec=spec),
        "plan": SimpleNamespace(micro_batch_size=3),
        "data": SimpleNamespace(batches=batches),
    }
    run = Run(**{part.name: parts.get(part.name) for part in fields(Run)})
    most = 3 * (24 if packing else 12)
    assert run.evaluation_tokens == most
    found = row_batches(validation, rank=0, world_size=1, max_tokens=run.evaluation_tokens)
    assert max(batch.input_ids.numel() for batch in found) == most
