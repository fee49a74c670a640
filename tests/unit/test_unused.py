"""What a stage does not import."""

import json
import sys

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.jobs import minimal_job
from finetune_trainer.unused import hide_unused_by_prepare, hide_unused_by_worker

MLFLOW = {"mlflow": {"uri": "http://mlflow:5000"}}


@pytest.fixture
def modules(monkeypatch):
    """A fresh view of what is imported."""
    fresh = {name: module for name, module in sys.modules.items() if name not in ("scipy", "bitsandbytes", "mlflow")}
    monkeypatch.setattr(sys, "modules", fresh)
    return fresh


@pytest.mark.parametrize(
    ("spec", "config", "rank", "hidden"),
    [
        ({}, {}, "0", {"scipy", "bitsandbytes", "mlflow"}),
        ({"method": {"type": "qlora"}}, {}, "0", {"scipy", "mlflow"}),
        ({"training": {"optimizer": {"type": "adamw8bit"}}}, {}, "0", {"scipy", "mlflow"}),
        ({"training": {"optimizer": {"type": "muon"}}}, {}, "0", {"scipy", "bitsandbytes", "mlflow"}),
        ({}, {"quantization_config": {"load_in_4bit": True}}, "0", {"scipy", "mlflow"}),
        ({"tracking": MLFLOW}, {}, "0", {"scipy", "bitsandbytes"}),
        ({"tracking": MLFLOW}, {}, "1", {"scipy", "bitsandbytes", "mlflow"}),
    ],
)
def test_what_a_job_has_no_use_for_is_hidden(modules, monkeypatch, tmp_path, spec, config, rank, hidden):
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("RANK", rank)
    hide_unused_by_worker(FineTuneJobSpec.model_validate(minimal_job(**spec)["spec"]), tmp_path)
    assert {name for name, module in modules.items() if module is None} >= hidden
    assert not hidden ^ {name for name in ("scipy", "bitsandbytes", "mlflow") if name in modules}


@pytest.mark.parametrize(("method", "hidden"), [("lora", True), ("full", True), ("qlora", False)])
def test_prepare_has_use_for_bitsandbytes_with_one_method(modules, method, hidden):
    hide_unused_by_prepare(FineTuneJobSpec.model_validate(minimal_job(method={"type": method})["spec"]))
    assert ("bitsandbytes" in modules) is hidden
