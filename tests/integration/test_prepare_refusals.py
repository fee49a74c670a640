"""What the prepare stage says of bad rows, models and places, against a real S3 server."""

import json

import pytest
from prepare_rows import GIB, NO_SPLIT, another, base_data, fails, row, rows

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.stage import run

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
        StageFailure, match=r"30 of 32 rows are invalid: .*; the log lists 20 of them and counts the kinds$"
    ):
        run(s3_job.stage_input(), s3_job.store)
    assert capsys.readouterr().out.count('"event": "invalid-row"') == 20


PATIENT = {"earlyStopping": {"patience": 2}}


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param({"split": NO_SPLIT}, "spec.data.split.validation 0.0 yields none", id="no-share"),
        pytest.param({"split": {"validation": 0.001}}, "spec.data.split.validation 0.001 yields none", id="few-rows"),
        pytest.param({"validation": "listed"}, "spec.data.validation holds none that is kept", id="list"),
    ],
)
def test_early_stopping_without_validation_rows(s3_job, data, cause):
    """Not known before the rows are split and duplicates left out; and told again of rows that are there already."""
    s3_job.put_rows("rows/train.jsonl", rows(5))
    if "validation" in data:
        s3_job.put_rows("rows/more.jsonl", [row(0)])
        listed = [{"uri": s3_job.uri("rows/more.jsonl")}]
        data = {"validation": listed, "test": listed, "split": NO_SPLIT, "deduplicate": "exact"}
    spec = {"data": {**base_data(s3_job), **data}}
    failure = fails(s3_job, s3_job.stage_input(**spec, evaluation=PATIENT))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)
    assert failure.message == (
        f"spec.evaluation.earlyStopping needs validation rows, and {cause}; name other files in spec.data.validation,"
        " raise spec.data.split.validation, or remove earlyStopping"
    )
    assert s3_job.keys("runs/") == []
    assert run(s3_job.stage_input(**spec), s3_job.store).data.validation.rows == 0
    edited = s3_job.stage_input(**spec, evaluation=PATIENT)
    for prepared in (edited, another(edited, f"{s3_job.uid}-b")):
        assert fails(s3_job, prepared).message == failure.message


def test_sources_that_are_missing_or_of_another_kind(s3_job):
    s3_job.put_rows("rows/train.jsonl", rows(5))
    s3_job.put("other/notes.txt", b"x")
    s3_job.put("set/rows.json", b"{}")
    for uri, reason, message in [
        ("rows/none.jsonl", Reason.OBJECT_NOT_FOUND, "{uri} does not exist"),
        ("rows", Reason.OBJECT_NOT_FOUND, "{uri} does not exist; it is a folder: write it with a trailing /"),
        (
            "other/",
            Reason.INVALID_DATA,
            "{uri} holds no rows: there is no file ending in .jsonl, .csv, .parquet below it",
        ),
        (
            "set/",
            Reason.INVALID_DATA,
            "{uri} holds no rows: there is no file ending in .jsonl, .csv, .parquet below it; a .json file is read"
            " where its own URI is given",
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
    assert failure.message == (
        "spec.method.lora does not fit the model: targetModules: no module with weights is called nope; module names"
        ' of a model are in its model.safetensors.index.json, and targetModules: ["all-linear"] fits every model'
    )


def test_a_merge_that_would_be_wrong(s3_job):
    """The tiny model's head is its embeddings."""
    s3_job.put_rows("rows/train.jsonl", rows(5))
    method = {"type": "lora", "lora": {"targetModules": ["q_proj", "lm_head"]}}
    failure = fails(s3_job, s3_job.stage_input(method=method, output={"merge": True}))
    assert (failure.code, failure.reason) == (ExitCode.INVALID, Reason.INVALID_SPEC)
    assert "embeddings and head of the model are one matrix" in failure.message


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
