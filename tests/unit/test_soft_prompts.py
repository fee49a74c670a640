"""Virtual tokens under packed documents: the numbers of peft's own forward pass on single rows."""

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finetune_api.spec import Method
from finetune_trainer.data.batches import MicroBatch
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.answers import answer
from finetune_trainer.export.assemble import assemble_adapter
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import attention, selfcheck, weights
from finetune_trainer.objectives.sft import SupervisedLoss
from finetune_trainer.prepare.model_shape import measure
from finetune_trainer.train.inputs import inputs_of

CPU = torch.device("cpu")
LENGTHS = [9, 4, 30, 2, 12]
METHODS = {
    "prompt": {"type": "prompt", "prompt": {"numVirtualTokens": 5}},
    "prefix": {"type": "prefix", "prefix": {"numVirtualTokens": 5}},
    "projected": {"type": "prefix", "prefix": {"numVirtualTokens": 5, "projectionSize": 24}},
}


def adapted(tiny_model, method):
    """Return the method and its model, the trained parameters moved to where they make a difference."""
    attention.register()
    chosen = method_of(Method.model_validate(method), Given(tiny_model))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention.IMPLEMENTATION)
    model = chosen.adapt(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return chosen, model


def batch(lengths, virtual_tokens):
    rows = torch.randint(400, (sum(lengths),), generator=torch.Generator().manual_seed(1)).split(lengths)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    targets = torch.cat([start + torch.arange(length - 1) for start, length in zip(starts, lengths, strict=False)])
    ids = torch.cat(rows)
    return MicroBatch(
        input_ids=ids[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        cu_seqlens=starts.int(),
        supervised_positions=targets,
        labels=ids[targets + 1],
        max_seqlen=max(lengths),
        virtual_tokens=virtual_tokens,
    )


def trained_grads(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_packed_loss_and_gradients_are_those_of_single_rows_in_peft(tiny_model, name, checkpointing):
    _, model = adapted(tiny_model, METHODS[name])
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    loss = SupervisedLoss(model)
    packed = batch(LENGTHS, 5)
    found, _ = loss(inputs_of(packed, CPU, "sdpa"))
    grads = trained_grads(model, found)
    model.get_base_model().gradient_checkpointing_disable()
    model.get_base_model().set_attn_implementation("eager")
    alone = sum(
        cross_entropy(model(input_ids=row[None]).logits[0, -len(row) : -1], row[1:], reduction="sum")
        for row in packed.input_ids[0].split(LENGTHS)
    )
    assert found.item() == pytest.approx(alone.item(), abs=1e-3)
    for key, grad in trained_grads(model, alone).items():
        torch.testing.assert_close(grads[key], grad, atol=1e-5, rtol=1e-4, msg=key)
    assert len(grads) == (5 if name == "projected" else 1)


@pytest.mark.parametrize("name", METHODS)
def test_hidden_states_are_those_of_peft_and_the_selfcheck_sees_both(tiny_model, name):
    _, model = adapted(tiny_model, METHODS[name])
    loss = SupervisedLoss(model).eval()
    inputs = inputs_of(batch(LENGTHS, 5), CPU, "sdpa")
    with torch.no_grad():
        logits = loss.transformer.lm_head(loss.hidden_states(inputs))
        loss.transformer.set_attn_implementation("eager")
        rows = inputs.input_ids[0].split(LENGTHS)
        alone = torch.cat([model(input_ids=row[None]).logits[0, -len(row) :] for row in rows])
        loss.transformer.set_attn_implementation(attention.IMPLEMENTATION)
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)
    assert selfcheck.check(loss, CPU, "sdpa", virtual_tokens=5) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_saved_restored_and_exported_as_peft_loads_it(tiny_model, tmp_path, name):
    chosen, model = adapted(tiny_model, METHODS[name])
    weights.save(model, chosen, tmp_path / "weights", keep=True)
    _, other = adapted(tiny_model, METHODS[name])
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    weights.restore(other, chosen, tmp_path / "weights")
    for key, parameter in other.named_parameters():
        assert parameter.equal(model.get_parameter(key)), key
    assemble_adapter(tmp_path / "weights", tokenizer=tiny_model, base_uri="s3://b/m/", target=tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.arange(3, 40)[None]
    model.eval().get_base_model().set_attn_implementation("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert not any("word_embeddings" in key for key in model.state_dict())


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_answers_are_what_the_forward_pass_says_next(tiny_model, name):
    _, model = adapted(tiny_model, METHODS[name])
    model.eval().get_base_model().set_attn_implementation("sdpa")

    class Numbers:
        def decode(self, tokens, **options):
            return " ".join(map(str, tokens))

    prompts = [list(range(5, 14)), list(range(40, 53)), list(range(70, 79))]
    answers = answer(model, Numbers(), prompts, max_new_tokens=6, stop_tokens=[])
    for prompt, said in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert said == " ".join(map(str, ids[len(prompt) :]))


def test_a_prompt_begins_as_the_tokens_of_its_text(tiny_model):
    spec = {"type": "prompt", "prompt": {"numVirtualTokens": 4, "init": "text", "initText": "The invoice is"}}
    chosen = method_of(Method.model_validate(spec), Given(tiny_model))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = chosen.adapt(base)
    tokens = AutoTokenizer.from_pretrained(tiny_model)("The invoice is")["input_ids"]
    repeated = torch.tensor((tokens * 4)[:4])
    assert model.prompt_encoder["default"].embedding.weight.equal(base.get_input_embeddings().weight[repeated])


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_a_prompt_begins_as_what_the_decoder_sees_of_its_tokens(tiny_model, family):
    """Gemma scales embeddings within the module that holds them."""
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **heads)).eval()
    seen = []
    base.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output))
    spec = {"type": "prompt", "prompt": {"numVirtualTokens": 4, "init": "text", "initText": "The invoice is"}}
    model = method_of(Method.model_validate(spec), Given(tiny_model)).adapt(base)
    assert not seen  # what hooks add, such as noise, is no part of the tokens
    tokens = AutoTokenizer.from_pretrained(tiny_model)("The invoice is")["input_ids"]
    text = torch.tensor((tokens * 4)[:4])
    row = torch.arange(20, 30)
    with torch.no_grad():
        spelled_out = base(input_ids=torch.cat([text, row])[None]).logits
        prompted = model(input_ids=row[None]).logits
    torch.testing.assert_close(prompted, spelled_out, atol=1e-5, rtol=1e-5)


def test_noise_stays_within_the_bound_of_the_documents_own_length(tiny_model):
    _, model = adapted(tiny_model, METHODS["prompt"])
    loss = SupervisedLoss(model, noise_alpha=5.0).train()
    found, _ = loss(inputs_of(batch(LENGTHS, 5), CPU, "sdpa"))
    still, _ = loss.eval()(inputs_of(batch(LENGTHS, 5), CPU, "sdpa"))
    assert torch.isfinite(found)
    assert not torch.allclose(found, still)


def test_rows_have_the_positions_that_virtual_tokens_leave(tiny_model):
    config = AutoConfig.from_pretrained(tiny_model)
    assert measure(config, Method.model_validate(METHODS["prefix"]), "s3://m/").max_positions == 1024 - 5
    too_many = {"type": "prompt", "prompt": {"numVirtualTokens": 1023}}
    with pytest.raises(StageFailure, match="numVirtualTokens is 1023, but the model has 1024 positions"):
        measure(config, Method.model_validate(too_many), "s3://m/")
