"""What a reader has who loads a result by the lines of its model card: the tuned model, and where its answers end."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from export_jobs import load_as_card_says, shift_trained
from transformers import Gemma3Config

from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.jobs import minimal_job
from finetune_trainer.export.assemble import assemble_adapter, load_base, write_generation_config
from finetune_trainer.export.loading import how_to_load
from finetune_trainer.methods import method_of
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind

METHODS = {
    "lora": {"type": "lora"},
    "prompt": {"type": "prompt", "prompt": {"numVirtualTokens": 4}},
    "prefix": {"type": "prefix", "prefix": {"numVirtualTokens": 4}},
    "adapter": {"type": "adapter"},
}
UNUSED = 511
"""A token that no text of the tokenizer has."""
PROMPT = torch.tensor([list(range(3, 20))])


def published(spec: FineTuneJobSpec, base: Path, folder: Path) -> Path:
    """Make the folder of a result that is an adapter far from zero, with its card."""
    torch.manual_seed(1)
    method = method_of(spec.method)
    model = method.adapt(load_base(base, None, ModelKind()))
    shift_trained(model, by=0.2)
    weights.save(model, method, folder / "weights", keep=True)
    result = folder / "result"
    assemble_adapter(folder / "weights", tokenizer=base, base_uri=spec.model.uri, target=result / "adapter")
    (result / "README.md").write_text(how_to_load(spec))
    return result


def answer(result: Path, base: Path, *, stop_token: int) -> list[int]:
    """Return the tokens of the answer of a result whose export says that this token ends it."""
    write_generation_config(result / "adapter", base, stop_tokens={stop_token})
    (result / "base").unlink(missing_ok=True)
    model: Any = load_as_card_says(result, base)
    tokens: list[int] = model.generate(input_ids=PROMPT, do_sample=False, max_new_tokens=6)[0].tolist()
    return tokens[PROMPT.shape[1] :]


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_ends_where_it_was_trained_to_end(method, tiny_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "result" / "adapter")  # where the file of method `adapter` stands
    spec = FineTuneJobSpec.model_validate(minimal_job(method=METHODS[method])["spec"])
    result = published(spec, tiny_model, tmp_path)
    longest = answer(result, tiny_model, stop_token=UNUSED)
    assert len(longest) == 6
    assert answer(result, tiny_model, stop_token=longest[2]) == longest[: longest.index(longest[2]) + 1]


def test_a_classifier_has_no_answers():
    spec = FineTuneJobSpec.model_validate(minimal_job(objective="classification")["spec"])
    assert "GenerationConfig" not in how_to_load(spec)


def test_a_model_of_text_and_pictures_gets_rows_for_new_tokens():
    fields = minimal_job(method={"type": "lora"})["spec"]
    fields["model"]["newTokens"] = ["<ticket>"]
    card = how_to_load(FineTuneJobSpec.model_validate(fields))
    [line] = [line for line in card.splitlines() if "resize" in line]
    base = Mock(config=Gemma3Config(text_config={"vocab_size": 300}))
    exec(line, {"base": base, "tokenizer": "x" * 320})  # noqa: S102 - as its reader does
    base.resize_token_embeddings.assert_called_once_with(320)
