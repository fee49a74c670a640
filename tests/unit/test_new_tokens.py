"""Tokens that a job adds: rows in the model's files, trained alone, once where embeddings and head are one."""

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny_model import moved
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.spec import Method, Model
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import assemble_adapter
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import weights
from finetune_trainer.model.vocabulary import extend, new_token_ids
from finetune_trainer.objectives.sft import SupervisedLoss
from finetune_trainer.prepare.tokenizer import load_tokenizer

TOKENS = ["<tool>", "Fatturapa", "</tool>"]
LORA = Method.model_validate({"lora": {"rank": 4}})


@pytest.fixture(params=["tied", "untied", "reserved rows"])
def extended(request, tiny_model, tmp_path):
    """Return the base model as it was, the folder of the extended one with its tokenizer, and the new ids."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = load_tokenizer(tiny_model, Model(uri="s3://models/base/", new_tokens=TOKENS))
    known = len(tokenizer) - len(TOKENS)
    if request.param != "reserved rows":
        base.resize_token_embeddings(known, mean_resizing=False)
    if request.param == "untied":
        base.config.tie_word_embeddings = False
        base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight) * 0.02)
    base.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    extend(tmp_path / "model", tmp_path / "tokenizer", TOKENS)
    return base, tmp_path / "model", new_token_ids(tmp_path / "tokenizer", TOKENS)


def ids_with(new):
    return torch.tensor([[5, 9, new[0], 17, new[2], new[1], 40]])


def test_new_rows_are_the_mean_of_the_known_ones_and_nothing_else_changes(extended):
    base, folder, new = extended
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        before, now = getattr(base, name)().weight, getattr(model, name)().weight
        mean = before[: new[0]].mean(0)
        assert len(now) == max(len(before), new[-1] + 1)
        torch.testing.assert_close(now[list(new)], mean.expand(3, -1))
        assert now[: new[0]].equal(before[: new[0]])
        assert now[new[-1] + 1 :].equal(before[new[-1] + 1 :])
    assert model.config.tie_word_embeddings == base.config.tie_word_embeddings


def test_rows_alone_are_trained_with_the_numbers_of_peft(extended):
    _, folder, new = extended
    model = moved(method_of(LORA, Given(new_tokens=new)).adapt(AutoModelForCausalLM.from_pretrained(folder)))
    rows = [parameter for name, parameter in model.named_parameters() if "trainable_tokens" in name]
    tied = model.config.tie_word_embeddings
    assert [tuple(parameter.shape) for parameter in rows] == [(3, 64)] * (1 if tied else 2)
    ids = ids_with(new)

    def outcome():
        model.zero_grad()
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        return logits.detach(), [parameter.grad.clone() for parameter in rows]

    logits, grads = outcome()
    for module in model.modules():
        if "row_ids" in module._buffers:
            del module.forward
    torch.testing.assert_close((logits, grads), outcome(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("saved", [[], ["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_saved_once_and_loaded_by_peft_into_a_resized_base(extended, tmp_path, saved):
    """As the model card says: the base from S3 has no rows for the new tokens."""
    base, folder, new = extended
    spec = Method.model_validate({"lora": {"rank": 4, "modulesToSave": saved}})
    chosen = method_of(spec, Given(new_tokens=new))
    model = moved(chosen.adapt(AutoModelForCausalLM.from_pretrained(folder)))
    tied = model.config.tie_word_embeddings
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert (embeddings.weight.data_ptr() == head.weight.data_ptr()) == bool(tied and saved)
    assert chosen.file_keys(model).keys() == {name for name, one in model.named_parameters() if one.requires_grad}
    weights.save(model, chosen, tmp_path / "weights", keep=True)
    tokenizer = tmp_path / "tokenizer"
    assemble_adapter(tmp_path / "weights", tokenizer=tokenizer, base_uri="s3://m/", target=tmp_path / "adapter")
    count = max(len(AutoTokenizer.from_pretrained(tmp_path / "adapter")), base.config.vocab_size)
    base.resize_token_embeddings(count, mean_resizing=False)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = ids_with(new)
    with torch.no_grad():
        told = model(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, told, atol=1e-5, rtol=1e-5)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, told, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(again, told, atol=1e-3, rtol=1e-3)


def test_a_tied_matrix_counts_once(tiny_model, tmp_path):
    spec = Method.model_validate({"lora": {"rank": 4, "modulesToSave": ["embed_tokens", "lm_head"]}})
    chosen = method_of(spec)
    model = chosen.adapt(AutoModelForCausalLM.from_pretrained(tiny_model))
    whole = [parameter for name, parameter in model.named_parameters() if "modules_to_save" in name]
    assert [tuple(parameter.shape) for parameter in whole] == [(512, 64)]
    weights.save(model, chosen, tmp_path, keep=True)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert sum(file.get_slice(key).get_shape()[0] == 512 for key in file.keys()) == 1  # noqa: SIM118


def test_the_loss_sees_the_trained_rows(extended):
    _, folder, new = extended
    model = moved(method_of(LORA, Given(new_tokens=new)).adapt(AutoModelForCausalLM.from_pretrained(folder)))
    loss = SupervisedLoss(model)
    row = ids_with(new)[0]
    hidden = model.get_base_model().get_decoder()(input_ids=row[None]).last_hidden_state[0]
    found, _ = loss.predict(hidden[:-1], row[1:], count=False)
    torch.testing.assert_close(found, loss.own_loss(row), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tokens", [["<tool>", "<tool>"], ["<|im_start|>"]])
def test_a_token_that_is_there_already_is_refused(tiny_model, tokens):
    with pytest.raises(StageFailure, match=r"newTokens\[\d\]: '.*' is a token already"):
        load_tokenizer(tiny_model, Model(uri="s3://models/base/", new_tokens=tokens))


def test_freeze_must_train_the_matrices_of_new_tokens(tiny_model):
    spec = Method.model_validate({"type": "freeze"})
    with pytest.raises(StageFailure, match="add both to trainableModules"):
        method_of(spec, Given(new_tokens=(500,))).adapt(AutoModelForCausalLM.from_pretrained(tiny_model))
