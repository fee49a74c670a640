"""What a classifier becomes in the export, against a real S3 server, loaded as a user would."""

import json
from shutil import copytree

import pytest
import torch
from export_jobs import SCORES, commit_weights, download, load_as_card_says, losses_in_training, shift_trained
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from finetune_api.run import Confusion, RunLayout, TrainResult
from finetune_api.spec import Model
from finetune_trainer.export import stage as export
from finetune_trainer.export.assemble import load_base
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.methods.qlora import keep_layout
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.vocabulary import extend, new_token_ids
from finetune_trainer.prepare import stage as prepare
from finetune_trainer.prepare.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("examined_here")

LABELS = ["bill", "bug", "praise"]
TEXT = "This is letter 7 about a bug."
MATRIX = Confusion(labels=LABELS, rows=[[3, 0, 1], [0, 2, 0], [0, 1, 4]])


def rows(count):
    return [
        {"text": f"This is letter {number} about a {LABELS[number % 3]}.", "label": LABELS[number % 3], "id": number}
        for number in range(count)
    ]


def trained(s3_job, tiny_model, tmp_path, method, given=Given(), **spec):  # noqa: B008
    """Prepare a job, move its trained parameters away from where they began, and leave them as training does."""
    s3_job.put_rows("rows/train.jsonl", rows(60))
    job = s3_job.stage_input(objective="classification", method={"type": method}, **spec)
    classes = prepare_classes(s3_job, job)
    chosen, kind = method_of(job.spec.method, given), ModelKind.of(classes)
    model = chosen.adapt(load_base(tiny_model, job.spec.method.spelled_out().quantization, kind))
    torch.manual_seed(1)
    shift_trained(model, 0.1)
    weights.save(model, chosen, tmp_path / "weights", keep=True)
    commit_weights(s3_job, job, tmp_path / "weights", losses_in_training(s3_job, job, model, tmp_path))
    layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
    result = TrainResult.model_validate_json(s3_job.store.read(layout.train_result))
    scored = {
        "loss": 0.5,
        "rows": 11,
        "accuracy": 0.8182,
        "f1_macro": 0.8,
        "precision_macro": 0.8,
        "recall_macro": 0.8,
    }
    tuned = SCORES.model_validate({**scored})
    result = result.model_copy(
        update={
            "evaluation": result.evaluation.model_copy(update={"base": None, "tuned": tuned}),
            "confusion": MATRIX,
        }
    )
    s3_job.store.put(layout.train_result, result.model_dump_json(by_alias=True).encode())
    return job, said(model, tiny_model)


def prepare_classes(s3_job, job):
    from finetune_trainer.data.prepared import find_prepared

    prepare.run(job, s3_job.store)
    return find_prepared(s3_job.store, RunLayout(job.spec.checkpoint.uri, job.run_id)).classes


def said(model, tokenizer) -> torch.Tensor:
    """Return the probabilities of the labels of one text."""
    ids = AutoTokenizer.from_pretrained(tokenizer)(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits[0].softmax(-1)


def check_predictions(published, model) -> None:
    lines = [json.loads(line) for line in (published / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(published / "merged"))
    for line in lines:
        assert line["text"] == f"This is letter {line['id']} about a {line['reference']}."
        [found] = ask(line["text"])
        assert line["tuned"] == found["label"]
        assert line["probability"] == pytest.approx(found["score"], abs=1e-4)


SPEC = {"evaluation": {"predictions": {"rows": 4}}}


def test_a_classifier_trained_in_full_is_published_whole(s3_job, tiny_model, tmp_path):
    job, told = trained(s3_job, tiny_model, tmp_path, "full", **SPEC)
    export.run(job, s3_job.store)
    published = download(s3_job, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(published / "merged")
    assert [model.config.id2label[number] for number in range(3)] == LABELS
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert torch.allclose(said(model, published / "merged"), told, atol=1e-5)
    assert not (published / "merged/generation_config.json").exists()
    check_predictions(published, model)
    card = (published / "README.md").read_text()
    assert "| tuned | 0.5000 | 0.8182 | 0.8000 | 0.8000 | 0.8000 | 11 |" in card
    assert "| `praise` | 0 | 1 | 4 |" in card
    assert 'tags: ["classification"]' in card


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_carries_its_head_and_merges(s3_job, tiny_model, tmp_path, method):
    output = {"uri": s3_job.uri("output/"), "merge": True}
    job, told = trained(s3_job, tiny_model, tmp_path, method, output=output, **SPEC)
    export.run(job, s3_job.store)
    published = download(s3_job, tmp_path)
    config = AutoConfig.from_pretrained(published / "adapter")
    options = {"config": config, "quantization_config": method_of(job.spec.method).quantization(torch.float32)}
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, **options)
    keep_layout(base)  # else 4 bits are computed in bf16 on CPUs that have it
    tuned = PeftModel.from_pretrained(base, published / "adapter")
    assert tuned.peft_config["default"].task_type == "SEQ_CLS"
    assert torch.allclose(said(tuned, published / "adapter"), told, atol=1e-4)
    merged = AutoModelForSequenceClassification.from_pretrained(published / "merged")
    assert [merged.config.id2label[number] for number in range(3)] == LABELS
    assert torch.allclose(said(merged, published / "merged"), told, atol=1e-3)
    if method == "lora":
        check_predictions(published, merged)


@pytest.mark.parametrize("reserved", [0, 50], ids=["no room", "rows in reserve"])
def test_an_adapter_with_new_tokens_loads_as_its_card_says(s3_job, tiny_model, tmp_path, reserved):
    tokens = ["letter", "<bill>"]
    tokenizer = load_tokenizer(tiny_model, Model(uri="s3://models/base/", new_tokens=tokens))
    base = tmp_path / "base"
    small = AutoModelForCausalLM.from_pretrained(tiny_model)
    small.resize_token_embeddings(len(tokenizer) - len(tokens) + reserved, mean_resizing=False)
    small.save_pretrained(base)
    for path in base.iterdir():
        s3_job.put(f"model/{path.name}", path.read_bytes())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    extended = copytree(base, tmp_path / "extended")
    extend(extended, tmp_path / "tokenizer", tokens)
    given = Given(new_tokens=new_token_ids(tmp_path / "tokenizer", tokens))
    model = {"uri": s3_job.uri("model/"), "newTokens": tokens}
    copytree(tmp_path / "tokenizer", extended, dirs_exist_ok=True)
    job, told = trained(s3_job, extended, tmp_path, "lora", given, model=model)
    export.run(job, s3_job.store)
    published = download(s3_job, tmp_path)
    loaded = load_as_card_says(published, base)
    assert torch.allclose(said(loaded, published / "adapter"), told, atol=1e-5)
    assert [loaded.config.id2label[number] for number in range(3)] == LABELS
