"""The prepare stage against a real S3 server: what it publishes, and what it says of bad input."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train_cases import write_adapter
from transformers import AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import RunLayout
from finetune_api.uris import parse_s3
from finetune_trainer.data.cache import SPLITS, TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.data.prepared import fetch_initial_adapter, fetch_model, fetch_prepared
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.stage import run

GIB = 1024**3
NO_SPLIT = {"validation": 0, "test": 0}


def row(number: int, **columns) -> dict:
    return {
        "messages": [
            {"role": "user", "content": f"How do I reset password {number}?"},
            {"role": "assistant", "content": f"Open page {number}."},
        ],
        **columns,
    }


def rows(count: int, start: int = 0) -> list[dict]:
    return [row(number, id=number) for number in range(start, start + count)]


def fetched(s3_job, job, directory: Path):
    return fetch_prepared(s3_job.store, RunLayout(job.spec.checkpoint.uri, job.run_id), directory)


def texts(prepared, split: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer)
    cache = TokenCache.open(prepared.cache, split)
    return [tokenizer.decode(cache.row(index)[0].tolist()) for index in range(len(cache))]


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


def another(job, uid: str):
    """Return the same job, created anew."""
    return job.model_copy(update={"uid": uid, "run_id": uid})


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


def test_a_prefix_of_all_kinds_of_files_in_one_format(s3_job, tmp_path):
    s3_job.put_rows("rows/a.jsonl", [{"prompt": "q1", "completion": "a1"}])
    s3_job.put("rows/deep/b.csv", b'prompt,completion\nq2,"a2, and more"\n')
    pq.write_table(pa.table({"prompt": ["q3"], "completion": ["a3"]}), tmp_path / "c.parquet")
    s3_job.put("rows/c.parquet", (tmp_path / "c.parquet").read_bytes())
    s3_job.put("rows/README.md", b"not rows")
    job = s3_job.stage_input(data={"train": [{"uri": s3_job.uri("rows/")}], "split": NO_SPLIT, "packing": False})
    data = run(job, s3_job.store).data
    assert (data.format, data.train.rows, data.train.sequences) == ("promptCompletion", 3, 3)
    assert texts(fetched(s3_job, job, tmp_path / "fetched"), "train") == [
        "q1a1<|im_end|>",
        "q3a3<|im_end|>",
        "q2a2, and more<|im_end|>",
    ]
    places = Places.open(fetched(s3_job, job, tmp_path / "again").cache, "train")
    assert places.of(range(3)) == [
        s3_job.uri("rows/a.jsonl:1"),
        s3_job.uri("rows/c.parquet:row 1"),
        s3_job.uri("rows/deep/b.csv:2"),
    ]


def test_rows_of_a_given_test_list_are_not_trained_on(s3_job, tmp_path, capsys):
    s3_job.put_rows("rows/train.jsonl", rows(10))
    s3_job.put_rows("rows/test.jsonl", [row(3, note="kept"), row(50)])
    lists = {"test": [{"uri": s3_job.uri("rows/test.jsonl")}], "split": NO_SPLIT}
    job = s3_job.stage_input(data={**base_data(s3_job), **lists})
    data = run(job, s3_job.store).data
    assert (data.train.rows, data.validation.rows, data.test.rows) == (9, 0, 2)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    assert not any("password 3?" in text for text in texts(prepared, "train"))
    assert json.loads(prepared.test_rows.read_text().splitlines()[0])["note"] == "kept"
    assert "training-rows-left-out" in capsys.readouterr().out


def secret_rows(count: int) -> list[dict]:
    """Return rows of which every second one names its customer."""
    named = [f" I am anna{number}@example.com." if number % 2 else "" for number in range(count)]
    return [
        {
            "messages": [
                {"role": "user", "content": f"How do I reset password {number}?{named[number]}"},
                {"role": "assistant", "content": f"Open page {number}."},
            ],
            "owner": f"owner{number}@example.com" if number % 2 else "",
        }
        for number in range(count)
    ]


def test_personal_data_reaches_neither_cache_nor_predictions_nor_log(s3_job, tmp_path, capsys):
    s3_job.put_rows("rows/train.jsonl", secret_rows(60))
    plain = run(s3_job.stage_input(checkpoint={"uri": s3_job.uri("plain/")}), s3_job.store).data
    capsys.readouterr()
    job = s3_job.stage_input(data={**base_data(s3_job), "pii": {"action": "mask"}})
    data = run(job, s3_job.store).data
    assert [(count.kind, count.places) for count in data.pii] == [("email", 60)]
    assert (data.pii_rows, data.dropped_pii, plain.pii) == (30, 0, [])
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    everything = [text for split in SPLITS for text in texts(prepared, split)]
    everything += [prepared.test_rows.read_text(), capsys.readouterr().out]
    assert not any("@example.com" in text for text in everything)
    assert sum("I am <EMAIL_1>." in text for text in everything[:60]) == 30
    # Masking moves no row to another split.
    assert [getattr(data, split).rows for split in SPLITS] == [getattr(plain, split).rows for split in SPLITS]


def test_rows_with_personal_data_can_be_left_out(s3_job):
    s3_job.put_rows("rows/train.jsonl", secret_rows(60))
    data = run(s3_job.stage_input(data={**base_data(s3_job), "pii": {"action": "drop"}}), s3_job.store).data
    assert (data.dropped_pii, sum(getattr(data, split).rows for split in SPLITS)) == (30, 30)


def test_rows_stay_in_their_split_when_others_are_added(s3_job, tmp_path):
    s3_job.put_rows("rows/train.jsonl", rows(60))
    first = s3_job.stage_input()
    run(first, s3_job.store)
    s3_job.put_rows("rows/train.jsonl", [*rows(40, start=100), *reversed(rows(60))])
    second = s3_job.stage_input(checkpoint={"uri": s3_job.uri("other/")})
    run(second, s3_job.store)
    before, after = (fetched(s3_job, job, tmp_path / job.spec.checkpoint.uri[-5:]) for job in (first, second))
    for split in SPLITS:
        assert set(texts(before, split)) <= set(texts(after, split))


def test_rows_that_are_too_long_are_dropped_and_counted(s3_job):
    s3_job.put_rows("rows/train.jsonl", [*rows(10), row(11, messages=[*row(0)["messages"]] * 40)])
    data = run(s3_job.stage_input(data={**base_data(s3_job), "split": NO_SPLIT}), s3_job.store).data
    assert (data.train.rows, data.dropped_too_long) == (10, 1)


def test_wrong_rows_may_be_left_out_and_long_ones_shortened(s3_job, tmp_path, capsys):
    long = [turn for number in range(40) for turn in row(number)["messages"]]
    wrong = {"dialog": [{"role": "user", "content": "Alone"}]}
    s3_job.put_rows("rows/train.jsonl", [{"dialog": item["messages"]} for item in rows(20)])
    s3_job.put_rows("rows/more.jsonl", [{"dialog": long}, wrong, {"dialog": "no turns"}])
    sources = [{"uri": s3_job.uri(f"rows/{name}.jsonl")} for name in ("train", "more")]
    settings = {"train": sources, "columns": {"messages": "dialog"}, "split": NO_SPLIT, "truncation": "keepAnswer"}
    with pytest.raises(StageFailure) as caught:
        run(s3_job.stage_input(data={**settings, "maxInvalidRows": 1}), s3_job.store)
    assert "2 of 23 rows are invalid" in caught.value.message
    assert "spec.data.maxInvalidRows allows 1" in caught.value.message
    job = s3_job.stage_input(data={**settings, "maxInvalidRows": 2})
    data = run(job, s3_job.store).data
    assert (data.train.rows, data.dropped_invalid, data.truncated, data.dropped_too_long) == (21, 2, 1, 0)
    assert sorted((count.kind.split(":")[0], count.rows) for count in data.invalid) == [("dialog", 1), ("dialog", 1)]
    kinds = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"invalid-rows"' in line][-1]
    assert sum(kinds["kinds"].values()) == 2
    [shortened] = [text for text in texts(fetched(s3_job, job, tmp_path / "fetched"), "train") if "page 39" in text]
    assert "page 0." not in shortened


def test_answers_are_cut_only_on_request(s3_job, tmp_path):
    long = row(0, messages=[row(0)["messages"][0], {"role": "assistant", "content": "Open page 0. " * 200}])
    s3_job.put_rows("rows/train.jsonl", [*rows(5, start=1), long])
    for truncation, counts in [("keepAnswer", (5, 0, 1)), ("end", (6, 1, 0))]:
        settings = {**base_data(s3_job), "split": NO_SPLIT, "truncation": truncation}
        job = s3_job.stage_input(data=settings, checkpoint={"uri": s3_job.uri(f"{truncation}/")})
        data = run(job, s3_job.store).data
        assert (data.train.rows, data.truncated, data.dropped_too_long) == counts
    cache = TokenCache.open(fetched(s3_job, job, tmp_path / "fetched").cache, "train")
    assert sorted(cache.lengths.tolist())[-1] == 256


def test_a_file_that_breaks_off_is_no_wrong_row(s3_job):
    lines = b"".join(json.dumps(item).encode() + b"\n" for item in rows(50))
    s3_job.put("rows/train.jsonl.gz", gzip.compress(lines)[:-20])
    failure = fails(s3_job, s3_job.stage_input(data={"train": [{"uri": s3_job.uri("rows/")}], "maxInvalidRows": 100}))
    assert failure.reason == Reason.INVALID_DATA
    assert ": the compressed file cannot be read on: " in failure.message
    assert failure.message.endswith("spec.data.maxInvalidRows allows 100, but no file that cannot be read to its end")


def test_long_documents_are_cut_and_learned_whole(s3_job, tmp_path):
    texts_of = [f"Page {number}. " + "Open the settings page and press reset. " * number for number in range(40)]
    s3_job.put_rows("rows/train.jsonl", [{"text": text} for text in texts_of])
    spec = {"objective": "pretrain", "data": {**base_data(s3_job), "maxLength": 64, "split": NO_SPLIT}}
    job = s3_job.stage_input(**spec)
    data = run(job, s3_job.store).data
    assert (data.format, data.dropped_too_long, data.validation.rows) == ("text", 0, 0)
    assert data.cut_documents > 20
    assert data.train.rows > 40 + data.cut_documents
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    tokenizer, cache = AutoTokenizer.from_pretrained(prepared.tokenizer), TokenCache.open(prepared.cache, "train")
    tokens = sum(len(ids) for ids in tokenizer(texts_of, add_special_tokens=False)["input_ids"])
    # Of each document all tokens but the first, and its end.
    assert data.train.supervised_tokens == tokens
    assert data.train.tokens == data.train.supervised_tokens + data.train.rows
    assert int(cache.lengths.max()) == 64
    assert int((cache.input_ids == tokenizer.eos_token_id).sum()) == 40


TOPICS = ("bill", "bug", "praise")


def labelled(number: int) -> dict:
    topic = TOPICS[number % 3 if number % 4 else 0]
    return {"text": f"This is letter {number} about a {topic}.", "label": topic, "id": number}


def test_rows_with_labels_become_classes(s3_job, tmp_path):
    s3_job.put_rows("rows/train.jsonl", [labelled(number) for number in range(120)])
    spec = {"objective": "classification", "method": {"type": "full"}}
    job = s3_job.stage_input(**spec)
    message = run(job, s3_job.store)
    prepared = fetched(s3_job, job, tmp_path / "fetched")
    classes, data = prepared.record.classes, message.data
    assert (data.format, data.num_classes, data.train.supervised_tokens) == ("label", 3, 0)
    assert (classes.labels, classes.pad_token_id) == (list(TOPICS), 0)
    assert [one.label for one in data.classes] == list(TOPICS)
    assert sum(one.train + one.validation + one.test for one in data.classes) == 120
    assert classes.rows == [one.train for one in data.classes]
    for split in SPLITS:
        ids = TokenCache.open(prepared.cache, split).class_labels
        for text, number in zip(texts(prepared, split), ids.tolist(), strict=True):
            assert f"about a {TOPICS[number]}." in text
    kept = [json.loads(line) for line in prepared.test_rows.read_text().splitlines()]
    assert kept == [labelled(row["id"]) for row in kept]
    # The head takes the place of that of the language model, which is tied to the embeddings.
    assert message.plan.trainable_parameters == message.plan.total_parameters
    plain = run(
        s3_job.stage_input(**spec, data={"labels": [*TOPICS]}, checkpoint={"uri": s3_job.uri("b/")}), s3_job.store
    )
    assert plain.data.model_copy(update={"card_uri": data.card_uri}) == data


def test_labels_that_cannot_be_learned_are_refused(s3_job):
    s3_job.put_rows("rows/train.jsonl", [labelled(number) for number in range(20)])
    s3_job.put_rows("rows/test.jsonl", [labelled(30), {"text": "What?", "label": "question"}])
    lists = {**base_data(s3_job), "test": [{"uri": s3_job.uri("rows/test.jsonl")}], "split": NO_SPLIT}
    failure = fails(s3_job, s3_job.stage_input(objective="classification", data=lists))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_DATA)
    assert failure.message.startswith(
        f"1 of 22 rows is invalid: {s3_job.uri('rows/test.jsonl')}:2: label: is 'question', which no training row has"
    )
    listed = {**lists, "labels": ["bill", "bug"]}
    failure = fails(s3_job, s3_job.stage_input(objective="classification", data=listed))
    assert (
        f"{s3_job.uri('rows/test.jsonl')}:2: label: is 'question', which spec.data.labels does not" in failure.message
    )
    assert f"{s3_job.uri('rows/train.jsonl')}:3: label: is 'praise', which" in failure.message


def test_the_models_positions_bound_the_rows_too(s3_job):
    s3_job.put_rows("rows/train.jsonl", [*rows(10), row(11, messages=[*row(0)["messages"]] * 60)])
    data = run(
        s3_job.stage_input(data={**base_data(s3_job), "maxLength": 8192, "split": NO_SPLIT}), s3_job.store
    ).data
    assert (data.train.rows, data.dropped_too_long) == (10, 1)


def base_data(s3_job) -> dict:
    return {"train": [{"uri": s3_job.uri("rows/train.jsonl")}], "maxLength": 256}


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


def test_nothing_stays_behind_at_the_place_of_the_result(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    run(s3_job.stage_input(), s3_job.store)
    assert s3_job.keys("output/") == []


GOOD = json.dumps(row(0)).encode() + b"\n"
NO_ANSWER = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            GOOD + b'{"messages": [\n',
            "1 of 2 rows is invalid: {rows}:2: not valid JSON: Expecting value at column 15;"
            " write one JSON object per line",
            id="broken-json",
        ),
        pytest.param(
            GOOD + NO_ANSWER,
            "1 of 2 rows is invalid: {rows}:2: messages: has no assistant turn, so there is nothing to learn from",
            id="no-assistant",
        ),
        pytest.param(b"", "the data set is empty: spec.data.train ({rows}) holds no rows", id="empty"),
        pytest.param(b"\n \n", "the data set is empty: spec.data.train ({rows}) holds no rows", id="blank"),
        pytest.param(
            b'{"question": "x"}\n',
            "{rows}:1: columns: need 'messages', or 'prompt' and 'completion'; found 'question'",
            id="unknown-columns",
        ),
        pytest.param(
            b"nope\n" * 3,
            "3 of 3 rows are invalid: {rows}:1: not valid JSON: Expecting value at column 1; write one JSON object"
            " per line; {rows}:2: not valid JSON: Expecting value at column 1; write one JSON object per line;"
            " {rows}:3: not valid JSON: Expecting value at column 1; write one JSON object per line",
            id="all-broken",
        ),
        pytest.param(
            json.dumps(row(0, messages=[*row(0)["messages"]] * 40)).encode(),
            "every training row (1) is longer than spec.data.maxLength 256 tokens (the longest row has {longest}"
            " tokens); raise it",
            id="too-long",
        ),
    ],
)
def test_bad_rows_end_the_stage_with_a_sentence(s3_job, content, message):
    s3_job.put("rows/train.jsonl", content)
    job = s3_job.stage_input(data={**base_data(s3_job), "split": NO_SPLIT})
    with pytest.raises(StageFailure) as caught:
        run(job, s3_job.store)
    assert (caught.value.code, caught.value.reason) == (ExitCode.INVALID, Reason.INVALID_DATA)
    longest = caught.value.message.partition("the longest row has ")[2].partition(" ")[0]
    assert caught.value.message == message.format(rows=s3_job.uri("rows/train.jsonl"), longest=longest)
    assert s3_job.keys("runs/") == []


def test_all_invalid_rows_are_counted_and_the_first_are_logged(s3_job, capsys):
    s3_job.put("rows/train.jsonl", GOOD + NO_ANSWER * 30 + GOOD)
    with pytest.raises(
        StageFailure, match=r"30 of 32 rows are invalid: .*; the log lists the first 20 and counts the kinds$"
    ):
        run(s3_job.stage_input(), s3_job.store)
    assert capsys.readouterr().out.count('"event": "invalid-row"') == 20


def fails(s3_job, job) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        run(job, s3_job.store)
    return caught.value


def test_sources_that_are_missing_or_of_another_kind(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    s3_job.put("other/notes.txt", b"x")
    for uri, reason, message in [
        ("rows/none.jsonl", Reason.OBJECT_NOT_FOUND, "{uri} does not exist"),
        ("rows", Reason.OBJECT_NOT_FOUND, "{uri} does not exist; it is a folder: write it with a trailing /"),
        (
            "other/",
            Reason.INVALID_DATA,
            "{uri} holds no rows: there is no file ending in .jsonl, .json, .csv, .parquet below it",
        ),
        (
            "other/notes.txt",
            Reason.INVALID_DATA,
            "{uri}: rows are read from files ending in .jsonl, .json, .csv, .parquet",
        ),
    ]:
        failure = fails(s3_job, s3_job.stage_input(data={"train": [{"uri": s3_job.uri(uri)}]}))
        assert (failure.code, failure.reason) == (ExitCode.INVALID, reason)
        assert failure.message == message.format(uri=s3_job.uri(uri))


def test_a_missing_bucket_is_named(s3_job):
    failure = fails(s3_job, s3_job.stage_input(data={"train": [{"uri": "s3://no-such-bucket/rows.jsonl"}]}))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.BUCKET_NOT_FOUND)
    assert "no-such-bucket" in failure.message


def test_models_that_are_none(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    s3_job.put("pickled/config.json", b"{}")
    s3_job.put("pickled/pytorch_model.bin", b"x")
    s3_job.put("bare/config.json", b"{}")
    s3_job.put("configless/model.safetensors", b"x")
    for key in ("odd/model.safetensors", "odd/tokenizer.json"):
        s3_job.put(key, b"x")
    s3_job.put("odd/config.json", b'{"model_type": "oddity"}')
    for prefix, message in [
        ("none/", "{uri} holds no .safetensors weights; it is empty: copy the model there, or mend spec.model.uri"),
        ("bare/", "{uri} holds no .safetensors weights; it has config.json: copy the weights there too"),
        (
            "pickled/",
            "{uri} holds no .safetensors weights; it has pytorch_model.bin, but pickled weights are never loaded:"
            " save them as safetensors",
        ),
        ("configless/", "{uri} holds no config.json; copy the model's config.json beside its weights"),
        ("odd/", "{uri}: config.json describes no model this trainer knows ("),
    ]:
        failure = fails(s3_job, s3_job.stage_input(model={"uri": s3_job.uri(prefix)}))
        assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_MODEL)
        assert failure.message.startswith(message.format(uri=s3_job.uri(prefix)))


def test_weights_that_were_cut_off(s3_job, tiny_model):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    content = (tiny_model / "model.safetensors").read_bytes()
    s3_job.put("model/model.safetensors", content[:-100])
    failure = fails(s3_job, s3_job.stage_input())
    assert failure.reason == Reason.INVALID_MODEL
    assert failure.message == (
        f"{s3_job.uri('model/model.safetensors')} was cut off: it has {len(content) - 100} bytes of {len(content)};"
        " copy it again"
    )


def test_adapter_targets_that_the_model_lacks(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    failure = fails(s3_job, s3_job.stage_input(method={"type": "lora", "lora": {"targetModules": ["nope"]}}))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)
    assert failure.message.startswith("spec.method.lora does not fit the model: Target modules")


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
    fetch_initial_adapter(s3_job.store, record, tmp_path / "adapter", spec=job.spec)
    name = "adapter_model.safetensors"
    assert (tmp_path / "adapter" / name).read_bytes() == (tmp_path / "earlier" / name).read_bytes()


def test_a_model_larger_than_the_memory_limit(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    failure = fails(s3_job, s3_job.stage_input(memory_limit_bytes=GIB // 2))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.OUT_OF_MEMORY)
    assert "but its memory limit is 0.5 GiB; raise spec.podTemplate.resources.limits.memory" in failure.message


def test_a_scratch_space_that_cannot_hold_the_run(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    failure = fails(s3_job, s3_job.stage_input(storage={"cache": {"sizeLimit": "100Ki"}}))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.SCRATCH_FULL)
    assert "spec.storage.cache.sizeLimit is 100Ki; raise it" in failure.message


@pytest.mark.parametrize("name", ["manifest.json", "adapter/adapter_config.json", "README.md"])
def test_what_stands_at_the_place_of_the_result_is_not_overwritten(s3_job, name):
    s3_job.put(f"output/{name}", b"{}")
    failure = fails(s3_job, s3_job.stage_input())
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.OUTPUT_EXISTS)
    place = s3_job.uri(f"output/{name}").replace("adapter_config.json", "")
    assert failure.message == (
        f"{place} exists already and is not of this job; nothing is overwritten:"
        " set spec.output.uri to an empty prefix, or remove what stands there"
    )
    assert s3_job.keys("output/") == [f"output/{name}"]
