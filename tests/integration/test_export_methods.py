"""What each method's weights become in the export, against a real S3 server, loaded as a user would."""

import json
import runpy
from shutil import copytree

import pytest
import torch
from export_jobs import commit_weights, download, load_as_card_says, logits, losses_in_training, rows, shift_trained
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.run import RunLayout
from finetune_api.spec import Model
from finetune_trainer.errors import StageFailure
from finetune_trainer.export import stage as export
from finetune_trainer.export.assemble import load_base
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.vocabulary import extend, new_token_ids
from finetune_trainer.prepare import stage as prepare
from finetune_trainer.prepare.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("examined_here")

ADAPTERS = {
    "dora": {"type": "lora", "lora": {"useDora": True}},
    "ia3": {"type": "ia3"},
    "nf4": {"type": "qlora"},
    "int8": {"type": "qlora", "quantization": {"bits": 8}},
}
BESIDE = {
    "prompt": {"type": "prompt"},
    "prefix": {"type": "prefix", "prefix": {"numVirtualTokens": 4, "projectionSize": 16}},
    "adapter": {"type": "adapter", "adapter": {"placement": "houlsby", "bottleneckSize": 8, "activation": "gelu"}},
}
"""Adapters that cannot be merged."""
IDS = list(range(3, 40))


def trained(s3_job, tiny_model, tmp_path, method, given=Given(), **spec):  # noqa: B008
    """Prepare a job, move its trained parameters away from where they began, and leave them as training does."""
    s3_job.put_rows("rows/train.jsonl", rows(60))
    job = s3_job.stage_input(method=method, **spec)
    prepare.run(job, s3_job.store)
    chosen = method_of(job.spec.method, given)
    torch.manual_seed(1)
    base = load_base(tiny_model, job.spec.method.spelled_out().quantization, ModelKind())
    model = chosen.adapt(base)
    shift_trained(model, 0.3)
    weights.save(model, chosen, tmp_path / "weights", keep=True)
    commit_weights(s3_job, job, tmp_path / "weights", losses_in_training(s3_job, job, model, tmp_path))
    return job, logits(model, IDS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_and_merged_model_say_what_was_trained(s3_job, tiny_model, tmp_path, name):
    output = {"uri": s3_job.uri("output/"), "merge": True}
    job, told = trained(s3_job, tiny_model, tmp_path, ADAPTERS[name], output=output)
    gap = export.run(job, s3_job.store).output.merge_gap
    published = download(s3_job, tmp_path)
    base = load_base(tiny_model, job.spec.method.spelled_out().quantization, ModelKind())
    plain = logits(base, IDS)
    tuned = logits(PeftModel.from_pretrained(base, published / "adapter"), IDS)
    merged = logits(AutoModelForCausalLM.from_pretrained(published / "merged"), IDS)
    assert torch.allclose(tuned, told, atol=1e-4)
    # LLM.int8 also rounds what goes into a layer, which a merged model does not.
    assert torch.allclose(tuned, merged, atol=0.1 if name == "int8" else 1e-3)
    assert not torch.allclose(plain, tuned, atol=0.1)
    assert 0 <= gap < 1e-3
    assert f"{gap:.2g} nats" in (published / "README.md").read_text()


@pytest.mark.parametrize("name", BESIDE)
def test_an_adapter_that_cannot_be_merged_is_loaded_as_its_card_says(s3_job, tiny_model, tmp_path, name):
    evaluation = {"predictions": {"rows": 2, "maxNewTokens": 4}}
    job, told = trained(s3_job, tiny_model, tmp_path, BESIDE[name], evaluation=evaluation)
    output = export.run(job, s3_job.store).output
    published = download(s3_job, tmp_path)
    base = load_base(tiny_model, None, ModelKind())
    card = (published / "README.md").read_text()
    if name == "adapter":
        assert "from load_adapter import load" in card
        loader = runpy.run_path(str(published / "adapter/load_adapter.py"))
        tuned = loader["load"](base, published / "adapter")
    else:
        assert 'PeftModel.from_pretrained(base, "adapter")' in card
        tuned = PeftModel.from_pretrained(base, published / "adapter")
    assert torch.allclose(logits(tuned, IDS), told, atol=1e-4)
    assert (output.merged_uri, len((published / "predictions.jsonl").read_text().splitlines())) == (None, 2)


def test_an_adapter_of_few_bits_belongs_to_the_base_of_few_bits(s3_job, tiny_model, tmp_path):
    """Merging into the original weights is what this must not do: it is further from what was trained."""
    output = {"uri": s3_job.uri("output/"), "merge": True}
    job, told = trained(s3_job, tiny_model, tmp_path, ADAPTERS["nf4"], output=output)
    export.run(job, s3_job.store)
    published = download(s3_job, tmp_path)
    original = AutoModelForCausalLM.from_pretrained(tiny_model)
    wrong = logits(PeftModel.from_pretrained(original, published / "adapter"), IDS)
    merged = logits(AutoModelForCausalLM.from_pretrained(published / "merged"), IDS)
    assert (merged - told).abs().mean() < (wrong - told).abs().mean() / 10


def test_trained_layers_are_put_into_the_base_model(s3_job, tiny_model, tmp_path):
    job, told = trained(s3_job, tiny_model, tmp_path, {"type": "freeze", "freeze": {"trainableLayers": 1}})
    output = export.run(job, s3_job.store).output
    published = download(s3_job, tmp_path)
    assert (output.adapter_uri, output.merged_uri) == (None, s3_job.uri("output/merged/"))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(published / "merged"), IDS), told)


@pytest.mark.parametrize("name", ["full", "freeze", *BESIDE])
def test_what_predicts_otherwise_than_the_trained_model_is_not_published(s3_job, tiny_model, tmp_path, name):
    """The weights of the commit are whole and finite, but not those that training ended with."""
    method = BESIDE.get(name, {"type": name})
    job, _ = trained(s3_job, tiny_model, tmp_path, method)
    [path] = (tmp_path / "weights").glob("*.safetensors")
    right = s3_job.store.read(RunLayout(job.spec.checkpoint.uri, job.run_id).train_result)
    spoilt = {key: -tensor for key, tensor in load_file(path).items()}
    save_file(spoilt, path, metadata={"format": "pt"})
    commit_weights(s3_job, job, tmp_path / "weights", json.loads(right)["comparedLosses"])
    with pytest.raises(StageFailure, match="is not published: it predicts otherwise than the trained model"):
        export.run(job, s3_job.store)
    assert s3_job.keys("output/") == []


def test_new_tokens_are_prepared_trained_exported_and_merged(s3_job, tiny_model, tmp_path):
    tokens = ["password?", "<page>"]
    base = tmp_path / "base"
    copytree(tiny_model, base)
    tokenizer = load_tokenizer(tiny_model, Model(uri="s3://models/base/", new_tokens=tokens))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    extend(base, tmp_path / "tokenizer", tokens)
    given = Given(new_tokens=new_token_ids(tmp_path / "tokenizer", tokens))
    model = {"uri": s3_job.uri("model/"), "newTokens": tokens}
    output = {"uri": s3_job.uri("output/"), "merge": True}
    method = {"type": "lora", "lora": {"rank": 4}}
    job, told = trained(s3_job, base, tmp_path, method, given, model=model, output=output)
    assert export.run(job, s3_job.store).output.merge_gap < 1e-3
    published = download(s3_job, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(published / "merged")
    assert torch.allclose(logits(merged, IDS), told, atol=1e-3)
    assert torch.allclose(logits(load_as_card_says(published, tiny_model), IDS), told, atol=1e-4)
    assert AutoTokenizer.from_pretrained(published / "merged")("<page>")["input_ids"] == [given.new_tokens[-1]]
