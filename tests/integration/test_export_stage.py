"""The export stage against a real S3 server: what a commit's weights become, and what is not published."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from export_jobs import commit_weights, download, logits, rows
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import OutputManifest, RunLayout
from finetune_api.status import EvaluationResult
from finetune_api.uris import parse_s3
from finetune_trainer.errors import StageFailure
from finetune_trainer.export import stage as export
from finetune_trainer.prepare import stage as prepare
from finetune_trainer.storage.digest import sha256_of


def write_adapter(base: Path, target: Path) -> None:
    """Write an adapter as a commit holds it, far enough from zero to change what the model says."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(target)
    (target / "README.md").unlink()


def write_model(base: Path, target: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(target)


def trained(s3_job, tiny_model: Path, tmp_path: Path, *, run_id: str | None = None, **spec) -> object:
    """Prepare a job and leave weights as if it had been trained; return its input."""
    s3_job.put_rows("rows/train.jsonl", rows(60))
    job = s3_job.stage_input(**spec)
    job = job.model_copy(update={"run_id": run_id or job.run_id})
    prepare.run(job, s3_job.store)
    weights = tmp_path / "weights"
    (write_adapter if job.spec.method.type == "lora" else write_model)(tiny_model, weights)
    commit_weights(s3_job, job, weights)
    return job


def test_adapter_merged_model_and_predictions(s3_job, tiny_model, tmp_path):
    job = trained(
        s3_job,
        tiny_model,
        tmp_path,
        output={"uri": s3_job.uri("output/"), "merge": True},
        evaluation={"predictions": {"rows": 4, "maxNewTokens": 6}},
    )
    first = export.run(job, s3_job.store)
    check_names(s3_job, first.output)
    published = download(s3_job, tmp_path)
    check_models(s3_job, tiny_model, published)
    check_predictions(tiny_model, published)
    check_card(s3_job, job, (published / "README.md").read_text())
    before = {key: s3_job.store.stat(parse_s3(s3_job.uri(key))) for key in s3_job.keys("output/")}
    assert export.run(job, s3_job.store) == first
    assert {key: s3_job.store.stat(parse_s3(s3_job.uri(key))) for key in s3_job.keys("output/")} == before


def check_names(s3_job, output) -> None:
    assert (output.step, output.uri) == (7, s3_job.uri("output/"))
    assert output.adapter_uri == s3_job.uri("output/adapter/")
    assert output.merged_uri == s3_job.uri("output/merged/")
    assert output.predictions_uri == s3_job.uri("output/predictions.jsonl")
    assert output.digest == sha256_of(s3_job.store.read(parse_s3(s3_job.uri("output/manifest.json"))))


def check_models(s3_job, tiny_model, published) -> None:
    config = json.loads((published / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == s3_job.uri("model/")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = list(range(3, 40))
    plain = logits(base, ids)
    tuned = logits(PeftModel.from_pretrained(base, published / "adapter"), ids)
    merged = logits(AutoModelForCausalLM.from_pretrained(published / "merged"), ids)
    assert torch.allclose(tuned, merged, atol=1e-4)
    assert not torch.allclose(plain, tuned, atol=1e-1)
    for folder in ("adapter", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(published / folder)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        assert text.startswith("<|im_start|>user")
    for folder in ("adapter", "merged"):
        generation = json.loads((published / folder / "generation_config.json").read_text())
        assert generation["eos_token_id"] == [2]


def check_predictions(tiny_model, published) -> None:
    lines = [json.loads(line) for line in (published / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert [line["base"] for line in lines] == [greedy(base, tokenizer, line["prompt"], 6) for line in lines]
    tuned = PeftModel.from_pretrained(base, published / "adapter")
    assert [line["tuned"] for line in lines] == [greedy(tuned, tokenizer, line["prompt"], 6) for line in lines]
    for line in lines:
        assert line["prompt"] == [{"role": "user", "content": f"How do I reset password {line['id']}?"}]
        assert line["reference"] == f"Open page {line['id']}."


def check_card(s3_job, job, card: str) -> None:
    prepared = json.loads(s3_job.store.read(RunLayout(job.spec.checkpoint.uri, job.run_id).prepared_manifest))
    assert prepared["data"]["digest"] in card
    assert f'base_model: "{s3_job.uri("model/")}"' in card
    assert "| tuned | 1.5000 | 4.48 | 0.5000 | 100 |" in card
    assert "| steps | 7 of " in card


def greedy(model, tokenizer, prompt: list[dict], count: int) -> str:
    """Answer one prompt token by token, without a cache, a batch or the library's generation."""
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    answer: list[int] = []
    for _ in range(count):
        token = int(logits(model, [*ids, *answer])[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    return tokenizer.decode(answer, skip_special_tokens=True)


def test_a_model_trained_in_full_is_published_whole(s3_job, tiny_model, tmp_path):
    job = trained(s3_job, tiny_model, tmp_path, method={"type": "full"})
    output = export.run(job, s3_job.store).output
    published = download(s3_job, tmp_path)
    assert output.adapter_uri is None
    assert output.merged_uri == s3_job.uri("output/merged/")
    assert output.predictions_uri is None
    loaded = load_file(published / "merged/model.safetensors")
    sent = load_file(tmp_path / "weights/model.safetensors")
    assert loaded.keys() == sent.keys()
    assert all(torch.equal(loaded[name], sent[name]) for name in sent)
    AutoModelForCausalLM.from_pretrained(published / "merged")
    AutoTokenizer.from_pretrained(published / "merged")


def test_a_result_of_another_job_stays(s3_job):
    manifest = OutputManifest(
        job="other/job",
        uid="another",
        step=1,
        base_model="s3://x/y",
        data_digest="0" * 64,
        files=[],
        evaluation=EvaluationResult(),
    )
    s3_job.put("output/manifest.json", manifest.model_dump_json(by_alias=True).encode())
    failure = fails(s3_job, s3_job.stage_input())
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.OUTPUT_EXISTS)
    assert "manifest.json exists already and is not of this job but of job other/job (uid another)" in failure.message


def other_claim(s3_job, uid: str) -> None:
    s3_job.put("output/.finetune-writing.json", json.dumps({"writer": uid, "job": "other/job"}).encode())


def test_a_place_that_another_job_writes_to_is_left_to_it(s3_job):
    other_claim(s3_job, "another")
    for stage in (prepare, export):
        with pytest.raises(StageFailure, match=r"writing.json exists already and is not of this job but of"):
            stage.run(s3_job.stage_input(), s3_job.store)
    assert s3_job.keys("output/") == ["output/.finetune-writing.json"]


@pytest.mark.usefixtures("examined_here")
def test_what_a_try_of_this_job_left_is_written_over(s3_job, tiny_model, tmp_path):
    other_claim(s3_job, s3_job.uid)
    left = ["merged/config.json", "adapter/old.safetensors", "predictions.jsonl"]
    for name in left:
        s3_job.put(f"output/{name}", b"left over")
    s3_job.put("output/notes.txt", b"of the user")
    job = trained(s3_job, tiny_model, tmp_path)  # prepare lets it pass too
    export.run(job, s3_job.store)
    download(s3_job, tmp_path, beside={"output/notes.txt"})


@pytest.mark.usefixtures("examined_here")
def test_a_run_that_began_anew_replaces_the_result_of_the_one_before(s3_job, tiny_model, tmp_path):
    first = trained(s3_job, tiny_model, tmp_path / "first")
    before = export.run(first, s3_job.store).output
    assert before.adapter_uri is not None
    changed = {"method": {"type": "full"}}
    job = trained(s3_job, tiny_model, tmp_path / "second", run_id=f"{s3_job.uid}-7", **changed)
    after = export.run(job, s3_job.store).output
    assert (after.adapter_uri, after.merged_uri) == (None, s3_job.uri("output/merged/"))
    download(s3_job, tmp_path)
    manifest = json.loads(s3_job.store.read(parse_s3(s3_job.uri("output/manifest.json"))))
    assert (manifest["uid"], manifest["runId"]) == (s3_job.uid, f"{s3_job.uid}-7")
    # Beside the runs lies what names prepared rows for other jobs.
    assert {key.split("/")[1] for key in s3_job.keys("runs/")} - {"cache"} == {s3_job.uid, f"{s3_job.uid}-7"}
    # What stands there is this run's: nothing is made again.
    assert export.run(job, s3_job.store).output == after


def fails(s3_job, job) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        export.run(job, s3_job.store)
    return caught.value


def test_an_adapter_that_lacks_tensors_is_not_published(s3_job, tiny_model, tmp_path):
    job = trained(s3_job, tiny_model, tmp_path)
    path = tmp_path / "weights/adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if "layers.1.mlp.up_proj" not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    commit_weights(s3_job, job, tmp_path / "weights")
    failure = fails(s3_job, job)
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_MODEL)
    assert "the adapter's file does not have the tensors that the model has places for" in failure.message
    assert s3_job.keys("output/") == []


@pytest.mark.usefixtures("examined_here")
def test_a_wrong_merge_is_not_published(s3_job, tiny_model, tmp_path, monkeypatch):
    job = trained(s3_job, tiny_model, tmp_path, output={"uri": s3_job.uri("output/"), "merge": True})

    def merge_nothing(base: Path, adapter: Path, *, target: Path, **others) -> None:
        shutil.copytree(base, target)

    monkeypatch.setattr(export.assemble, "merge", merge_nothing)
    failure = fails(s3_job, job)
    assert failure.reason == Reason.INVALID_MODEL
    assert failure.message.startswith(
        "the result is not published: the merged model differs from base and adapter by"
    )
    assert s3_job.keys("output/") == []


def test_altered_weights_are_not_exported(s3_job, tiny_model, tmp_path):
    job = trained(s3_job, tiny_model, tmp_path)
    [key] = [key for key in s3_job.keys("runs/") if key.endswith("adapter_model.safetensors")]
    content = bytearray((tmp_path / "weights/adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    s3_job.put(key, bytes(content))
    failure = fails(s3_job, job)
    assert (failure.code, failure.reason) == (ExitCode.STORAGE, Reason.STORAGE_FAILED)
    assert "were altered" in failure.message


def test_without_a_training_result_there_is_nothing_to_export(s3_job):
    failure = fails(s3_job, s3_job.stage_input())
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.OBJECT_NOT_FOUND)
    assert "results/train.json does not exist" in failure.message
