"""What a training pod's scratch space must hold, told before any GPU is taken."""

from typing import Any

import pytest
from plans import RESOLVED

from finetune_api.run import FileEntry
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.space import require_scratch

MIB = 2**20
MODEL = [
    FileEntry(key="model/a.safetensors", size=30 * MIB, sha256="0" * 64),
    FileEntry(key="model/b.safetensors", size=10 * MIB, sha256="0" * 64),
]
PREPARED = [FileEntry(key="prepared/train", size=5 * MIB, sha256="0" * 64)]


def require(limit_mib: int, *, trained: int = 0, new_tokens: list[str] | None = None) -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://bucket/model/", "newTokens": new_tokens or []},
            "data": {"train": [{"uri": "s3://bucket/rows/"}]},
            "training": {"epochs": 1, "globalBatchSize": 2},
            "checkpoint": {"uri": "s3://bucket/runs/"},
            "output": {"uri": "s3://bucket/output/"},
            "storage": {"cache": {"sizeLimit": f"{limit_mib}Mi"}},
        }
    )
    plan = RESOLVED.model_copy(update={"trainable_parameters": trained})
    require_scratch(spec, plan, model=MODEL, prepared=PREPARED)


@pytest.mark.parametrize(
    ("needed", "asked"),
    [
        (45, {}),
        (61, {"trained": 2 * MIB}),
        (75, {"new_tokens": ["<a>"]}),
        (75, {"new_tokens": ["<a>"], "trained": 2 * MIB}),
        (85, {"new_tokens": ["<a>"], "trained": 5 * MIB}),
    ],
    ids=["nothing trained", "a checkpoint", "new tokens", "a checkpoint smaller than the copy", "and a larger one"],
)
def test_a_pod_needs_model_and_data_and_the_larger_of_checkpoint_and_copy(needed: int, asked: dict[str, Any]) -> None:
    require(needed, **asked)
    with pytest.raises(StageFailure, match="raise it"):
        require(needed - 1, **asked)


def test_the_message_says_what_the_space_is_for() -> None:
    with pytest.raises(StageFailure) as caught:
        require(1, new_tokens=["<a>"])
    assert "a copy of a model file for newTokens 0.03" in caught.value.message
