"""What the export stage refuses before it loads anything, and how it reads questions and judges results."""

import json

import pytest
import torch
from safetensors.torch import save_file

from finetune_api.spec import Freeze, Method, Quantization
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import (
    assemble_partial,
    base_stop_tokens,
    load_base,
    load_result,
    write_generation_config,
)
from finetune_trainer.export.examine import judge, judge_losses
from finetune_trainer.export.fresh import Reply, Request, divergence
from finetune_trainer.export.questions import line_of, prompt_of, read_questions, turn_end
from finetune_trainer.export.weights import check_adapter, check_model
from finetune_trainer.methods import method_of
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind

FIRST, SECOND = "base_model.model.layers.0.q_proj.lora_A.weight", "base_model.model.layers.0.q_proj.lora_B.weight"
GOOD = {FIRST: torch.ones(2, 4), SECOND: torch.ones(4, 2)}


def write(directory, tensors):
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def test_a_good_adapter_passes(tmp_path):
    check_adapter(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "it holds no tensors"),
        ({**GOOD, FIRST: torch.zeros(0)}, "lora_A.weight have no content"),
        ({FIRST: GOOD[FIRST]}, "lora_A.weight have no counterpart"),
        ({**GOOD, SECOND: torch.zeros(4, 2)}, "all its lora_B are zero, so it does nothing"),
        ({**GOOD, FIRST: torch.full((2, 4), torch.nan)}, "lora_A.weight holds values that are no numbers"),
    ],
)
def test_spoilt_adapters_are_refused(tmp_path, tensors, problem):
    with pytest.raises(StageFailure) as caught:
        check_adapter(write(tmp_path, tensors))
    assert problem in caught.value.message


def test_an_empty_tensor_in_a_model_is_refused(tmp_path):
    with pytest.raises(StageFailure, match="have no content"):
        check_model(write(tmp_path, {"model.embed_tokens.weight": torch.zeros(0)}))


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(dtype="float32", divergence=1e-6), None),
        (Reply(dtype="float32", divergence=None), None),
        (Reply(dtype="float32", divergence=2e-3), "differs from base and adapter by 0.002 nats per token"),
        (Reply(dtype="bfloat16", divergence=2e-3), None),
        (Reply(dtype="float32", adapter_fits=False), "does not have the tensors"),
        (Reply(dtype="float32", finite=False), "its outputs are no numbers"),
    ],
)
def test_judging(reply, problem):
    if problem is None:
        judge(reply)
    else:
        with pytest.raises(StageFailure, match=problem):
            judge(reply)


@pytest.mark.parametrize(
    ("dtype", "precision", "bits", "difference", "passes"),
    [
        ("float32", "fp32", None, 1e-3, True),
        ("float32", "fp32", None, 2e-2, False),
        ("bfloat16", "fp32", None, 2e-2, True),
        ("float32", "bf16", None, 2e-2, True),
        ("bfloat16", "bf16", None, 0.3, False),
        ("float32", "fp32", 8, 2e-2, True),
        ("float32", "fp32", 4, 2e-2, False),
    ],
)
def test_losses_other_than_those_of_training_are_no_result(dtype, precision, bits, difference, passes):
    request = Request(
        base=None,
        adapter=None,
        model="merged",
        quantization=bits and Quantization(bits=bits),
        prepared="prepared",
        questions=0,
        max_new_tokens=1,
        stop_tokens=[],
        trained_losses=[2.0, 1.0],
        precision=precision,
    )
    # In one mean the differences would be none.
    reply = Reply(dtype=dtype, losses=[2.0 + difference, 1.0 - difference])
    if passes:
        assert judge_losses(reply, request) == pytest.approx(difference)
    else:
        with pytest.raises(StageFailure, match="it predicts otherwise than the trained model"):
            judge_losses(reply, request)
    with pytest.raises(StageFailure, match="it predicts 1 tokens of rows in which training predicted 2"):
        judge_losses(Reply(dtype=dtype, losses=[2.0]), request)
    assert judge_losses(reply, request.model_copy(update={"trained_losses": []})) is None


def test_divergence_is_zero_for_the_same_and_positive_otherwise():
    first, second = (torch.log_softmax(torch.randn(5, 7), dim=-1) for _ in range(2))
    assert divergence([first], [first]) == pytest.approx(0, abs=1e-6)
    assert divergence([first], [second]) > 0.01


@pytest.fixture
def cache(tmp_path):
    with CacheWriter(tmp_path, "test") as writer:
        # given 1 2, answer 3 9, given 4 5, answer 6 9, white space 8
        writer.append([1, 2, 3, 9, 4, 5, 6, 9, 8], [False, False, True, True, False, False, True, True, False])
        writer.append([1, 7, 9], [False, True, True])
    return TokenCache.open(tmp_path, "test")


def test_a_prompt_is_all_before_the_last_answer(cache):
    assert prompt_of(cache, 0) == [1, 2, 3, 9, 4, 5]
    assert prompt_of(cache, 1) == [1]


def test_the_turn_end_is_a_special_token_or_none(cache):
    assert turn_end(cache, {0, 9}) == {9}
    assert turn_end(cache, {0}) == set()


def test_the_turn_end_is_that_of_most_rows(tmp_path):
    with CacheWriter(tmp_path, "train") as writer:
        for end in (7, 9, 9, 8):
            writer.append([1, 2, end], [False, True, True])
    assert turn_end(TokenCache.open(tmp_path, "train"), {0, 8, 9}) == {9}


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ANSWERS = {"base": "b", "tuned": "t"}


@pytest.mark.parametrize(
    ("form", "columns", "line"),
    [
        ("messages", {"id": 1, "messages": TURNS}, {"id": 1, "prompt": TURNS[:1], "reference": "a"}),
        (
            "promptCompletion",
            {"prompt": "p", "completion": "c", "note": "n"},
            {"note": "n", "prompt": "p", "reference": "c"},
        ),
        *(
            ("promptCompletion", {"prompt": "p", "completion": "c", "messages": other}, None)
            for other in (TURNS, ["hi", "ho"], "hi", None)
        ),
    ],
)
def test_predictions_keep_the_columns(cache, tmp_path, form, columns, line):
    (tmp_path / "test.jsonl").write_text(json.dumps(columns) + "\n")
    [question] = read_questions(cache, tmp_path / "test.jsonl", 5)
    line = line or {"messages": columns["messages"], "prompt": "p", "reference": "c"}
    assert question.record(form, **ANSWERS) == {**line, **ANSWERS}


def test_predictions_keep_columns_that_are_called_as_what_a_line_says(cache, tmp_path):
    others = {"prompt": "of the row", "base": 1, "tuned": 2, "row_base": 3, "reference": 4}
    (tmp_path / "test.jsonl").write_text(json.dumps({"messages": TURNS, **others}))
    [question] = read_questions(cache, tmp_path / "test.jsonl", 1)
    assert question.record("messages", **ANSWERS) == {
        "row_prompt": "of the row",
        "row_row_base": 1,
        "row_tuned": 2,
        "row_base": 3,
        "row_reference": 4,
        "prompt": TURNS[:1],
        "reference": "a",
        **ANSWERS,
    }


def test_predicted_labels_keep_columns_that_are_called_as_what_a_line_says():
    said = {"reference": "a", "tuned": "b", "probability": 0.5}
    assert line_of({"text": "x", "probability": 7}, said) == {"text": "x", "row_probability": 7, **said}


def test_a_reference_holds_the_calls_of_tools(cache, tmp_path):
    call = {"id": "call12345", "type": "function", "function": {"name": "price", "arguments": {"item": "tè"}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Wait.", "tool_calls": [call]}]
    (tmp_path / "test.jsonl").write_text(json.dumps({"messages": turns}))
    [question] = read_questions(cache, tmp_path / "test.jsonl", 1)
    record = question.record("messages", **ANSWERS)
    assert record["reference"] == 'Wait.\n{"name": "price", "arguments": {"item": "tè"}}'


def test_generation_settings_stop_where_answers_end(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 5, "temperature": 0.6}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert base_stop_tokens(tmp_path) == {5, 6}
    target = tmp_path / "target"
    target.mkdir()
    write_generation_config(target, tmp_path, stop_tokens={9, 5})
    assert json.loads((target / "generation_config.json").read_text()) == {"eos_token_id": [5, 9], "temperature": 0.6}


def test_the_last_layers_of_a_classifier_bring_its_head(tiny_model, tmp_path):
    kind = ModelKind(("a", "b", "c"), pad_token_id=0)
    method = method_of(Method(type="freeze", freeze=Freeze(trainable_layers=1)))
    model = method.adapt(load_base(tiny_model, None, kind))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    weights.save(model, method, tmp_path / "weights", keep=True)
    assemble_partial(tiny_model, tmp_path / "weights", kind=kind, tokenizer=tiny_model, target=tmp_path / "merged")
    loaded = load_result(tmp_path / "merged", kind)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
