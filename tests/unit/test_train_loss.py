import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.reasons import Reason
from finetune_api.spec import Method, Training
from finetune_trainer.data.batches import MicroBatch
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import method_of
from finetune_trainer.model import attention, selfcheck
from finetune_trainer.objectives import head as heads
from finetune_trainer.objectives import sft
from finetune_trainer.train.engine import scaled
from finetune_trainer.train.inputs import inputs_of
from finetune_trainer.train.optimizers import parameter_groups
from finetune_trainer.train.rates import layer_rates, rates_of

CPU = torch.device("cpu")
LENGTHS = [9, 4, 30, 1, 12]


class LargestLogits(TorchDispatchMode):
    """Notes the most rows of any tensor as wide as the vocabulary, but for the 64 of the head's own matrix."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.ndim == 2 and made.shape[1] == 512 and len(made) != 64:
            self.rows = max(self.rows, made.shape[0])
        return made


def load(tiny_model, **options):
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation=attention.IMPLEMENTATION)
    return sft.SupervisedLoss(model, **options)


def batch(lengths, supervised_from=2):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(400, (length,), generator=generator) for length in lengths]
    ids = torch.cat(rows)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.tensor(
        [
            start + position - 1
            for start, length in zip(starts.tolist(), lengths, strict=False)
            for position in range(supervised_from, length)
        ],
        dtype=torch.int64,
    )
    return MicroBatch(
        input_ids=ids[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        cu_seqlens=starts.int(),
        supervised_positions=positions,
        labels=ids[positions + 1],
        max_seqlen=max(lengths),
    )


def inputs(lengths, **options):
    return inputs_of(batch(lengths, **options), CPU, "sdpa")


def row_logits(tiny_model, ids):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0]


def test_packed_rows_have_the_logits_of_each_row_alone(tiny_model):
    loss = load(tiny_model)
    packed = inputs(LENGTHS)
    with torch.no_grad():
        logits = loss.transformer.lm_head(loss.hidden_states(packed))
    alone = torch.cat([row_logits(tiny_model, ids) for ids in packed.input_ids[0].split(LENGTHS)])
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_loss_is_the_summed_cross_entropy_of_the_supervised_tokens_alone(tiny_model):
    packed = inputs(LENGTHS, supervised_from=3)
    loss, counts = load(tiny_model)(packed, count=True)
    logits = torch.cat([row_logits(tiny_model, ids) for ids in packed.input_ids[0].split(LENGTHS)])
    logits = logits[packed.supervised_positions]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, packed.labels, reduction="sum"))
    assert counts.tolist() == [(logits.argmax(-1) == packed.labels).sum(), len(packed.labels)]


def test_running_text_has_the_loss_that_transformers_gives_it(tiny_model):
    packed = inputs([9, 30, 2], supervised_from=1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    rows = packed.input_ids[0].split([9, 30, 2])
    wanted = sum(model(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) for row in rows)
    torch.testing.assert_close(load(tiny_model)(packed)[0], wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1000, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_made_on_the_way_forward_are_those_of_autograd(
    monkeypatch, *, dtype, trained, bias, tokens, smoothing
):
    monkeypatch.setattr(heads, "TILE_BYTES", 4 * 97 * tokens)
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 97, bias=bias, dtype=dtype).requires_grad_(trained)
    hidden = torch.randn(23, 16, dtype=dtype, requires_grad=True)
    labels = torch.randint(97, (23,))
    wanted = torch.nn.functional.cross_entropy(
        head(hidden).float(), labels, reduction="sum", label_smoothing=smoothing
    )
    (wanted * 0.37).backward()
    expected = [hidden.grad, *(parameter.grad for parameter in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    got = heads.score(head, hidden, labels, heads.Scoring(count_correct=True, label_smoothing=smoothing))
    (got.loss * 0.37).backward()
    gap = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(got.loss, wanted, **gap)
    torch.testing.assert_close([hidden.grad, *(parameter.grad for parameter in head.parameters())], expected, **gap)
    assert got.correct == (head(hidden).argmax(-1) == labels).sum()


def test_the_gradient_of_the_head_is_scaled_where_it_stands_and_once_only():
    head, hidden = torch.nn.Linear(8, 16), torch.randn(6, 8, requires_grad=True)
    loss = heads.score(head, hidden, torch.arange(6), heads.Scoring()).loss
    kept = [tensor.data_ptr() for tensor in loss.grad_fn.saved_tensors]
    loss.backward(torch.tensor(0.5))
    assert [tensor.grad.data_ptr() for tensor in (hidden, head.weight, head.bias)] == kept
    loss = heads.score(head, hidden, torch.arange(6), heads.Scoring()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tiles_change_neither_loss_nor_gradients(tiny_model, monkeypatch):
    results = []
    for tokens in (1000, 5):
        monkeypatch.setattr(heads, "TILE_BYTES", 4 * 512 * tokens)
        loss = load(tiny_model)
        value, _ = loss(inputs(LENGTHS))
        value.backward()
        results.append([value, *(parameter.grad for parameter in loss.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_plain", [True, False])
def test_no_batch_of_logits_is_larger_than_a_tile(tiny_model, monkeypatch, is_plain):
    monkeypatch.setattr(heads, "TILE_BYTES", 4 * 512 * 5)
    monkeypatch.setattr(sft, "is_one_matrix", lambda head: is_plain)
    loss = load(tiny_model)
    with LargestLogits() as seen:
        loss(inputs(LENGTHS))[0].backward()
    assert seen.rows == 5


def test_both_ways_to_score_are_equal(tiny_model, monkeypatch):
    monkeypatch.setattr(heads, "TILE_BYTES", 4 * 512 * 7)
    results = []
    for is_plain in (True, False):
        monkeypatch.setattr(sft, "is_one_matrix", lambda head, plain=is_plain: plain)
        loss = load(tiny_model)
        value, counts = loss(inputs(LENGTHS), count=True)
        value.backward()
        results.append([value, counts, *(parameter.grad for parameter in loss.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_scoring_without_gradients_keeps_none(tiny_model):
    loss = load(tiny_model)
    with torch.no_grad():
        value, _ = loss(inputs(LENGTHS))
    assert not value.requires_grad


def test_idle_batch_has_loss_zero_and_reaches_every_parameter(tiny_model):
    loss = load(tiny_model)
    idle = inputs([1])
    assert len(idle.labels) == 0
    value, counts = loss(idle, count=True)
    value.backward()
    assert value == 0
    assert counts.tolist() == [0, 0]
    gradients = [parameter.grad for parameter in loss.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("split", [[LENGTHS], [[9, 4], [30, 1, 12]], [[9], [4], [30], [1], [12]]])
def test_scaled_gradient_is_that_of_the_mean_however_rows_are_spread(tiny_model, split):
    whole = load(tiny_model)
    everything = inputs(LENGTHS)
    tokens = len(everything.labels)
    (whole(everything)[0] / tokens).backward()
    parts = load(tiny_model)
    for ids in _parts(everything, split):
        # As on as many processes: each adds its gradient, and DeepSpeed divides the sum by their number.
        (scaled(parts(ids)[0], tokens, len(split)) / len(split)).backward()
    ours = [parameter.grad for parameter in parts.parameters()]
    torch.testing.assert_close(ours, [parameter.grad for parameter in whole.parameters()], atol=1e-5, rtol=1e-4)


def _parts(everything, split):
    rows = dict(zip(LENGTHS, everything.input_ids[0].split(LENGTHS), strict=True))
    for lengths in split:
        made = batch(lengths)
        ids = torch.cat([rows[length] for length in lengths])
        yield inputs_of(
            MicroBatch(
                input_ids=ids[None],
                position_ids=made.position_ids,
                cu_seqlens=made.cu_seqlens,
                supervised_positions=made.supervised_positions,
                labels=ids[made.supervised_positions + 1],
                max_seqlen=made.max_seqlen,
            ),
            CPU,
            "sdpa",
        )


def test_selfcheck_accepts_a_plain_model(tiny_model):
    loss = load(tiny_model)
    assert selfcheck.check(loss, CPU, "sdpa") < 1e-5
    assert loss.transformer.config._attn_implementation == attention.IMPLEMENTATION


def test_selfcheck_refuses_a_model_whose_rows_see_one_another(tiny_model, monkeypatch):
    apart = attention.documents

    def together(bounds, device, backend, **kwargs):
        return apart(bounds[[0, -1]], device, backend)

    monkeypatch.setattr(attention, "documents", together)
    with pytest.raises(StageFailure) as failure:
        selfcheck.check(load(tiny_model), CPU, "sdpa")
    assert failure.value.reason is Reason.INVALID_MODEL
    assert "LlamaForCausalLM cannot be trained on packed rows" in failure.value.message


def test_selfcheck_refuses_a_model_that_scales_its_logits(tiny_model):
    loss = load(tiny_model)
    plain = loss.transformer.forward

    def scaling(**arguments):
        output = plain(**arguments)
        output.logits = output.logits * 3
        return output

    loss.transformer.forward = scaling
    with pytest.raises(StageFailure):
        selfcheck.check(loss, CPU, "sdpa")


SIZES = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR_HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}


def made(kind, dtype=torch.float32, **extra):
    attention.register()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **HEADS, **extra})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.IMPLEMENTATION, dtype=dtype)
    return sft.SupervisedLoss(model)


@pytest.mark.parametrize(
    ("kind", "extra", "why"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "a row changes by"),
        ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16}, "a row changes by"),
        ("qwen3_next", EXPERTS | LINEAR_HEADS | {"linear_value_head_dim": 16}, "differs by|a row changes by"),
        ("gemma2", {}, "softcap"),
        ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 64}, "last_hidden_state"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_selfcheck_refuses_what_packing_would_break(kind, extra, why, dtype):
    with pytest.raises(StageFailure, match=why) as failure:
        selfcheck.check(made(kind, dtype, **extra), CPU, "sdpa")
    assert failure.value.reason is Reason.INVALID_MODEL


@pytest.mark.parametrize(("kind", "extra"), [("qwen3_moe", EXPERTS), ("mistral", {"sliding_window": 4})])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_selfcheck_accepts_experts_and_windows(kind, extra, dtype):
    assert selfcheck.check(made(kind, dtype, **extra), CPU, "sdpa") < 1e-3


def test_vectors_do_not_decay_and_frozen_parameters_are_left_out(tiny_model):
    model = load(tiny_model).transformer
    model.model.embed_tokens.weight.requires_grad = False
    matrices, vectors = parameter_groups(model, 0.1, {})
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim == 2 for parameter in matrices["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters())) - 1


@pytest.mark.parametrize(
    ("method", "decay"),
    [
        ({"type": "ia3"}, {0.0}),
        ({"lora": {"rank": 1}}, {0.1}),
        ({"type": "prompt", "prompt": {"numVirtualTokens": 1}}, {0.1}),
    ],
)
def test_factors_are_vectors_and_matrices_of_rank_1_are_none(tiny_model, method, decay):
    """All have one row or one column. Decay pulls to 0, and a factor changes nothing at 1."""
    model = method_of(Method.model_validate(method)).adapt(load(tiny_model).transformer)
    groups = parameter_groups(model, 0.1, {})
    assert {group["weight_decay"] for group in groups} == decay
    assert all(1 in parameter.shape for group in groups for parameter in group["params"])


def test_a_layer_learns_at_a_share_of_the_rate_of_the_one_above_it(tiny_model):
    model = load(tiny_model).transformer
    rates = layer_rates(model, 0.5)
    last = model.config.num_hidden_layers - 1
    assert rates[model.model.layers[last].mlp.up_proj.weight] == 0.5
    assert rates[model.model.layers[0].input_layernorm.weight] == 0.5 ** (last + 1)
    assert rates[model.model.embed_tokens.weight] == 0.5 ** (last + 2)
    assert model.model.norm.weight not in rates
    assert not layer_rates(model, 1.0)
    groups = parameter_groups(model, 0.1, rates)
    found = {id(parameter): group["rate"] for group in groups for parameter in group["params"]}
    assert all(found[id(parameter)] == rates.get(parameter, 1.0) for parameter in model.parameters())


def test_second_matrices_learn_at_a_multiple_of_their_layers_rate(tiny_model):
    from peft import LoraConfig, get_peft_model

    peft_model = get_peft_model(load(tiny_model).transformer, LoraConfig(r=2, target_modules="all-linear"))
    model = peft_model.get_base_model()
    method = Method.model_validate({"lora": {"loraPlusRatio": 16}})
    training = Training.model_validate({"epochs": 1, "layerwiseLearningRateDecay": 0.5})
    rates = rates_of(model, method, training)
    up = model.model.layers[-1].mlp.up_proj
    assert (rates[up.lora_A["default"].weight], rates[up.lora_B["default"].weight]) == (0.5, 8.0)
    even = rates_of(model, method, Training.model_validate({"epochs": 1}))
    assert set(even.values()) == {16.0}
    assert not rates_of(model, Method(), Training.model_validate({"epochs": 1}))


def test_noise_is_as_large_as_the_length_of_the_document_says_and_evaluations_have_none(tiny_model):
    loss = load(tiny_model, noise_alpha=5.0)
    seen = []
    loss.transformer.get_input_embeddings().register_forward_hook(lambda *call: seen.append(call[-1]))
    packed = inputs(LENGTHS)
    for training in (False, True):
        loss.train(training)
        loss(packed)
    noise = (seen[1] - seen[0])[0].split(LENGTHS)
    width = seen[0].shape[-1]
    for length, part in zip(LENGTHS, noise, strict=True):
        bound = 5.0 / (length * width) ** 0.5
        assert 0.8 * bound < part.abs().max() <= bound * 1.001


def test_smoothed_labels_are_trained_on_and_not_evaluated_with(tiny_model):
    plain, smoothed = load(tiny_model).eval(), load(tiny_model, label_smoothing=0.1).eval()
    packed = inputs(LENGTHS)
    torch.testing.assert_close(smoothed(packed), plain(packed))
    smoothed.train()
    logits = smoothed.transformer.lm_head(smoothed.hidden_states(packed)[packed.supervised_positions])
    wanted = torch.nn.functional.cross_entropy(logits, packed.labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(smoothed(packed)[0], wanted)
