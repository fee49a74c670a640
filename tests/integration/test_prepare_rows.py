"""What the prepare stage makes of the rows of a job, from a real S3 server to the token cache."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_rows import NO_SPLIT, base_data, fails, fetched, row, rows, texts
from transformers import AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.data.cache import SPLITS, TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.stage import run


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
    s3_job.put_rows("rows/train.jsonl", [{"text": text, "messages": "of another format"} for text in texts_of])
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
    assert any("rows of 1024 tokens at most" in warning for warning in data.warnings)
