"""The prepare stage against a real S3 server: what it publishes, and what it takes up again."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from plain_models import write_adapter
from prepare_rows import NO_SPLIT, another, base_data, fails, fetched, row, rows, texts
from tiny_model import CHATML
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.reasons import Reason
from finetune_api.uris import parse_s3
from finetune_trainer.data.cache import SPLITS, TokenCache
from finetune_trainer.data.prepared import fetch_adapter, fetch_model
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods.initial_head import known_labels
from finetune_trainer.prepare.stage import run


def test_publishes_cache_tokenizer_test_rows_and_plan(s3_job, tmp_path, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(100))
    job = s3_job.stage_input()
    message = run(job, s3_job.store)
    assert message.reason == Reason.SUCCEEDED
    data, plan = message.data, message.plan
    assert data.format == "messages"
    assert data.train.rows + data.validation.rows + data.test.rows == 100
    assert min(data.validation.rows, data.test.rows) > 0
    assert 0 < data.supervised_share < 0.5
    assert data.padding_share == 0
    assert plan.total_parameters > plan.trainable_parameters > 0
    assert (plan.zero_stage, plan.world_size, plan.attention) == (0, 1, "sdpa")
    assert plan.total_steps == -(-data.train.sequences // 4)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    assert prepared.record.data == data
    for split in SPLITS:
        report = getattr(data, split)
        cache = TokenCache.open(prepared.cache, split)
        assert (len(cache), len(cache.input_ids), int(cache.supervised.sum())) == (
            report.rows,
            report.tokens,
            report.supervised_tokens,
        )
    kept = [json.loads(line) for line in prepared.test_rows.read_text().splitlines()]
    assert [(item["id"], item["messages"][1]["content"]) for item in kept] == [
        (item["id"], f"Open page {item['id']}.") for item in kept
    ]
    for item, text in zip(kept, texts(prepared, "test"), strict=True):
        assert item["messages"][0]["content"] in text
    previews = [line for line in capsys.readouterr().out.splitlines() if "row-preview" in line]
    assert len(previews) == 2
    assert "[[Open page" in previews[0]
    assert "<|im_end|>]]" in previews[0]


def test_the_model_can_be_fetched_as_it_was_seen(s3_job, tmp_path, tiny_model):
    s3_job.put_rows("rows/train.jsonl", rows(20))
    job = s3_job.stage_input()
    run(job, s3_job.store)
    record = fetched(s3_job, job, tmp_path / "fetched").record
    folder = fetch_model(s3_job.store, job.spec.model.uri, record, tmp_path / "model")
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_model.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    s3_job.put("model/model.safetensors", b"changed")
    with pytest.raises(StageFailure, match="does not match its SHA-256"):
        fetch_model(s3_job.store, job.spec.model.uri, record, tmp_path / "again")


def test_a_second_pod_uses_what_the_first_has_published(s3_job, monkeypatch):
    s3_job.put_rows("rows/train.jsonl", rows(20))
    job = s3_job.stage_input()
    first = run(job, s3_job.store)
    before = s3_job.keys("runs/")
    s3_job.put("rows/train.jsonl", b"")
    monkeypatch.setenv("FINETUNE_POD_UID", "another-pod")
    assert run(job, s3_job.store) == first
    assert s3_job.keys("runs/") == before


def test_the_digest_tells_the_data_and_nothing_else(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(20))
    first = run(s3_job.stage_input(), s3_job.store).data.digest
    again = run(s3_job.stage_input(checkpoint={"uri": s3_job.uri("other/")}), s3_job.store).data.digest
    s3_job.put_rows("rows/train.jsonl", rows(21))
    other = run(s3_job.stage_input(checkpoint={"uri": s3_job.uri("third/")}), s3_job.store).data.digest
    assert first == again != other


def test_a_job_with_the_same_rows_and_settings_copies_what_was_prepared(s3_job, tmp_path, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(40))
    job = s3_job.stage_input(data={**base_data(s3_job), "packing": False})
    first = run(job, s3_job.store).data
    packed = another(s3_job.stage_input(), "second")
    again = run(packed, s3_job.store).data
    assert "prepared-rows-reused" in capsys.readouterr().out
    assert (again.digest, again.train.rows) == (first.digest, first.train.rows)
    assert again.train.sequences < first.train.sequences == first.train.rows
    before, after = (fetched(s3_job, one, tmp_path / one.uid) for one in (job, packed))
    assert before.test_rows.read_bytes() == after.test_rows.read_bytes()
    assert texts(before, "train") == texts(after, "train")
    # Each has its own files: the second goes on when the first is gone.
    assert all("/second/" in entry.key for entry in after.record.files)
    [record] = s3_job.keys("runs/cache/")
    for key in s3_job.keys(f"runs/{job.run_id}/"):
        s3_job.server.client().delete_object(Bucket=s3_job.bucket, Key=f"{s3_job.uid}/{key}")
    third = another(s3_job.stage_input(), "third")
    assert run(third, s3_job.store).data.digest == first.digest
    out = capsys.readouterr().out
    assert "prepared-rows-not-reusable" in out
    assert "prepared-rows-reused" not in out
    assert s3_job.keys("runs/cache/") == [record]
    run(another(s3_job.stage_input(), "fourth"), s3_job.store)
    assert "prepared-rows-reused" in capsys.readouterr().out
    assert texts(after, "train") == texts(fetched(s3_job, packed, tmp_path / "later"), "train")


ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
"""A chat template that ends no answer with a special token."""


def test_warnings_stand_in_the_report_and_again_where_rows_are_reused(s3_job, tmp_path, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(6))
    s3_job.put_rows("rows/general.jsonl", rows(1, start=100))
    replay = {"sources": [{"uri": s3_job.uri("rows/general.jsonl")}], "fraction": 0.5}
    spec = {
        "data": {**base_data(s3_job), "split": NO_SPLIT, "replay": replay},
        "model": {"uri": s3_job.uri("model/"), "chatTemplate": ENDLESS},
    }
    job = s3_job.stage_input(**spec, training={"globalBatchSize": 64})
    told = run(job, s3_job.store).data.warnings
    assert ["(rows: 7)" in told[0], "(missing: 5)" in told[1], "of the 64 sequences" in told[2]] == [True] * 3
    assert warnings_in(capsys) == told
    again = another(s3_job.stage_input(**spec, training={"globalBatchSize": 1}), "second")
    assert run(again, s3_job.store).data.warnings == told[:2]
    assert warnings_in(capsys) == told[:2]
    assert len(s3_job.keys("runs/cache/")) == 1
    for one, listed in ((job, told), (again, told[:2])):
        folder = fetched(s3_job, one, tmp_path / one.uid).directory
        assert json.loads((folder / "data-card.json").read_text())["warnings"] == listed
        assert "".join(f"- {warning}\n" for warning in listed) in (folder / "data-card.md").read_text()


def test_what_the_evaluation_lacks_follows_its_edits(s3_job, capsys):
    s3_job.put_rows("rows/train.jsonl", labelled(["bill", "bug"]))
    spec = {
        "objective": "classification",
        "data": {**base_data(s3_job), "split": NO_SPLIT},
        "training": {"globalBatchSize": 1},
    }
    edited = s3_job.stage_input(**spec, evaluation={"bestMetric": "f1"})
    [warning] = run(edited, s3_job.store).data.warnings
    assert warning.startswith("there are no validation rows for spec.evaluation.bestMetric: ")
    assert warnings_in(capsys) == [warning]
    assert run(edited, s3_job.store).data.warnings == [warning]
    assert run(s3_job.stage_input(**spec), s3_job.store).data.warnings == []


def test_a_record_of_another_release_is_replaced(s3_job, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(6))
    run(s3_job.stage_input(), s3_job.store)
    [record] = s3_job.keys("runs/cache/")
    written = json.loads(s3_job.store.read(parse_s3(s3_job.uri(record))))
    s3_job.put(record, json.dumps({**written, "notKnownHere": 1}).encode())
    run(another(s3_job.stage_input(), "second"), s3_job.store)
    assert "prepared-rows-not-reusable" in capsys.readouterr().out
    assert "second" in json.loads(s3_job.store.read(parse_s3(s3_job.uri(record))))["prefix"]


def warnings_in(capsys) -> list[str]:
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return [line["hint"] for line in lines if "hint" in line]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"maxLength": 200}},
        {"data": {"deduplicate": "exact"}},
        {"model": {"chatTemplate": "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"}},
    ],
)
def test_other_settings_are_other_rows(s3_job, change, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(8))
    data = {**base_data(s3_job), "split": NO_SPLIT}
    run(s3_job.stage_input(data=data), s3_job.store)
    model = {"uri": s3_job.uri("model/"), **change.get("model", {})}
    job = another(s3_job.stage_input(data={**data, **change.get("data", {})}, model=model), "second")
    run(job, s3_job.store)
    assert "prepared-rows-reused" not in capsys.readouterr().out
    assert len(s3_job.keys("runs/cache/")) == 2


def test_the_data_card_says_what_the_rows_are(s3_job, tmp_path):
    s3_job.put_rows("rows/train.jsonl", [*rows(30), *rows(5), row(0, messages=[])])
    s3_job.put_rows("rows/test.jsonl", rows(4, start=100))
    s3_job.put_rows("rows/general.jsonl", rows(50, start=1000))
    lists = {
        "test": [{"uri": s3_job.uri("rows/test.jsonl")}],
        "split": NO_SPLIT,
        "replay": {"sources": [{"uri": s3_job.uri("rows/general.jsonl")}], "fraction": 0.25},
    }
    options = {"deduplicate": "exact", "maxInvalidRows": 5, "pii": {"action": "report"}}
    job = s3_job.stage_input(data={**base_data(s3_job), **lists, **options})
    data = run(job, s3_job.store).data
    assert (data.train.rows, data.duplicates, data.replayed) == (40, 5, 10)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    card = json.loads((prepared.directory / "data-card.json").read_text())
    assert (card["digest"], card["rowsRead"]) == (data.digest, 90)
    assert card["splits"]["train"]["rows"] == 40
    lengths = card["splits"]["train"]["lengths"]
    assert lengths["shortest"] <= lengths["p1"] <= lengths["p50"] <= lengths["p99"] <= lengths["longest"]
    assert (card["leftOut"]["invalid"], card["duplicates"]["training"]) == (1, 5)
    found = [(source["list"], source["rowsRead"], source["rowsUsed"]) for source in card["sources"]]
    assert found == [("test", 4, {"test": 4}), ("train", 36, {"train": 30}), ("replay", 50, {"train": 10})]
    assert card["sources"][1]["files"][0]["bytes"] > 1000
    text = (prepared.directory / "data-card.md").read_text()
    assert f"| `{s3_job.uri('rows/general.jsonl')}` | replay | 1 | 50 | 10 | 0 | 0 |" in text
    assert data.card_uri.endswith("/data-card.md")
    assert s3_job.store.exists(parse_s3(data.card_uri))


def test_the_jobs_chat_template_replaces_the_models(s3_job, tmp_path):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    template = "{% for m in messages %}<|im_start|>{{ m['role'][0] }}:{{ m['content'] }}<|im_end|>{% endfor %}"
    model = {"uri": s3_job.uri("model/"), "chatTemplate": template}
    job = s3_job.stage_input(model=model, data={**base_data(s3_job), "split": NO_SPLIT})
    run(job, s3_job.store)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    assert texts(prepared, "train")[0] == (
        "<|im_start|>u:How do I reset password 0?<|im_end|><|im_start|>a:Open page 0.<|im_end|>"
    )
    assert AutoTokenizer.from_pretrained(prepared.tokenizer).chat_template == template


def test_a_template_for_tools_goes_all_the_way(s3_job, tmp_path, capsys):
    place, calling = "model/additional_chat_templates/tool_use.jinja", "{{ tools[0]['function']['name'] }}: " + CHATML
    s3_job.put(place, calling.encode())
    tools = [{"type": "function", "function": {"name": "reset", "parameters": {"type": "object"}}}]
    s3_job.put_rows("rows/train.jsonl", [row(0), row(1, tools=tools)])
    job = s3_job.stage_input(data={**base_data(s3_job), "split": NO_SPLIT})
    run(job, s3_job.store)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    plain, with_tools = texts(prepared, "train")
    assert with_tools == f"reset: {plain}".replace("0", "1")
    assert AutoTokenizer.from_pretrained(prepared.tokenizer).chat_template == {"default": CHATML, "tool_use": calling}
    model = fetch_model(s3_job.store, job.spec.model.uri, prepared.record, tmp_path / "model")
    assert (model / place.removeprefix("model/")).read_text() == calling
    again = another(job, "second")
    run(again, s3_job.store)
    assert "prepared-rows-reused" in capsys.readouterr().out
    copied = fetched(s3_job, again, tmp_path / "copied")
    assert (copied.tokenizer / "additional_chat_templates/tool_use.jinja").read_text() == calling
    s3_job.put(place, f"now {calling}".encode())
    changed = another(job, "third")
    run(changed, s3_job.store)
    assert texts(fetched(s3_job, changed, tmp_path / "changed"), "train") == [plain, f"now {with_tools}"]


def test_nothing_stays_behind_at_the_place_of_the_result(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    run(s3_job.stage_input(), s3_job.store)
    assert s3_job.keys("output/") == []


def test_an_adapter_that_is_trained_further_is_taken_up_as_it_was_seen(s3_job, tiny_model, tmp_path):
    s3_job.put_rows("rows/train.jsonl", rows(20))
    job = s3_job.stage_input(method={"initialAdapter": {"uri": s3_job.uri("earlier/")}})
    failure = fails(s3_job, job)
    assert failure.message.startswith(
        f"{s3_job.uri('earlier/')} holds no adapter_config.json and no adapter_model.safetensors; set"
    )
    write_adapter(tiny_model, tmp_path / "earlier")
    for path in (tmp_path / "earlier").iterdir():
        s3_job.put(f"earlier/{path.name}", path.read_bytes())
    assert run(job, s3_job.store).plan.trainable_parameters == 512 * 64 + 2 * 4 * ((64 + 64) + (64 + 128))
    record = fetched(s3_job, job, tmp_path / "fetched").record
    fetch_adapter(s3_job.store, record, tmp_path / "adapter", spec=job.spec)
    name = "adapter_model.safetensors"
    assert (tmp_path / "adapter" / name).read_bytes() == (tmp_path / "earlier" / name).read_bytes()


def test_a_classifiers_adapter_is_taken_up_with_its_labels(s3_job, tiny_model, tmp_path):
    write_classifier(tiny_model, tmp_path / "earlier", ["praise", "bug", "bill"])
    put_earlier(s3_job, tmp_path / "earlier")
    s3_job.put_rows("rows/train.jsonl", labelled(["bill", "bug", "praise"]))
    job = s3_job.stage_input(**further(s3_job))
    assert run(job, s3_job.store).plan.trainable_parameters == 3 * 64 + 2 * 4 * (64 + 64)
    record = fetched(s3_job, job, tmp_path / "fetched").record
    assert record.classes.labels == ["bill", "bug", "praise"]
    fetch_adapter(s3_job.store, record, tmp_path / "adapter", spec=job.spec)
    assert known_labels(tmp_path / "adapter") == ("praise", "bug", "bill")
    s3_job.put_rows("rows/train.jsonl", labelled(["bill", "bug", "thanks"]))
    failure = fails(s3_job, another(job, "second"))
    assert "its labels are 'praise', 'bug', 'bill', those of the job 'bill', 'bug', 'thanks'" in failure.message


def test_a_classifiers_adapter_without_names_takes_those_of_the_spec(s3_job, tiny_model, tmp_path):
    write_classifier(tiny_model, tmp_path / "earlier", ["praise", "bug", "bill"])
    (tmp_path / "earlier/config.json").unlink()
    put_earlier(s3_job, tmp_path / "earlier")
    labels = ["bill", "bug", "praise"]
    s3_job.put_rows("rows/train.jsonl", labelled(labels))
    failure = fails(s3_job, s3_job.stage_input(**further(s3_job)))
    assert "its labels are not known" in failure.message
    assert "list them in spec.data.labels, in the order of the rows" in failure.message
    listed = s3_job.stage_input(**further(s3_job), data={**base_data(s3_job), "labels": labels})
    assert run(listed, s3_job.store).data.num_classes == 3


def labelled(labels):
    texts = [f"This is letter {number}." for number in range(60)]
    return [{"text": text, "label": labels[number % len(labels)]} for number, text in enumerate(texts)]


def further(s3_job):
    return {"objective": "classification", "method": {"initialAdapter": {"uri": s3_job.uri("earlier/")}}}


def put_earlier(s3_job, folder):
    for path in folder.iterdir():
        s3_job.put(f"earlier/{path.name}", path.read_bytes())


def write_classifier(base, directory, labels):
    """Write an adapter for a classifier and its configuration, as the export does."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(directory, save_embedding_layers=False)
    model.config.id2label = dict(enumerate(labels))
    model.config.save_pretrained(directory)
