"""Muon and AdamW as one optimizer: who learns by which, and that both do what torch's own do."""

import copy

import pytest
import torch
from plain_models import plain_model

from finetune_trainer.train.muon import MUON, MuonWithAdamW, hidden_matrices
from finetune_trainer.train.optimizers import RATE, parameter_groups, set_learning_rate


def names_of(model, parameters):
    return {name for name, parameter in model.named_parameters() if parameter in parameters}


def base_of(model):
    return model.get_base_model() if hasattr(model, "peft_config") else model


@pytest.mark.parametrize("method", ["full", "lora", "ia3"])
def test_matrices_inside_of_the_model_learn_by_muon(tiny_model, method):
    model = base_of(plain_model(tiny_model, {"type": method}))
    chosen = names_of(model, hidden_matrices(model))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method == "full":
        layers = {name for name in trained if ".layers." in name and "norm" not in name}
        assert chosen == layers
        assert trained - chosen == {"model.embed_tokens.weight", *(name for name in trained if "norm" in name)}
    elif method == "lora":
        assert chosen == trained
    else:
        assert chosen == set()  # the factors of a layer are a vector, though peft gives them two dimensions


def groups_of(model, rates=None):
    return parameter_groups(model, 0.01, rates or {}, hidden_matrices(model))


def train(model, optimizer, steps, rate=5e-3):
    """Train, and return the losses."""
    losses = []
    for step in range(steps):
        ids = torch.arange(3 + step, 40 + step)[None]
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        losses.append(loss.item())
    return losses


class Both:
    """torch's own two, side by side."""

    def __init__(self, model):
        groups = groups_of(model)
        muon = [group for group in groups if group[MUON]]
        self.optimizers = [
            torch.optim.Muon(muon, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [group for group in groups if not group[MUON]], betas=(0.8, 0.95), eps=1e-6, fused=True
            ),
        ]
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def test_it_does_what_torchs_own_do(tiny_model):
    ours, theirs = (plain_model(tiny_model, {"type": "full"}) for _ in range(2))
    losses = train(ours, MuonWithAdamW(groups_of(ours), betas=(0.8, 0.95), eps=1e-6), 4)
    assert losses == train(theirs, Both(theirs), 4)
    assert losses[-1] < losses[0]
    for mine, own in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.equal(own)


def test_a_loaded_state_goes_on_bit_by_bit(tiny_model):
    model = plain_model(tiny_model, {"type": "full"})
    optimizer = MuonWithAdamW(groups_of(model), betas=(0.9, 0.999), eps=1e-8)
    train(model, optimizer, 2)
    again = copy.deepcopy(model)
    resumed = MuonWithAdamW(groups_of(again), betas=(0.9, 0.999), eps=1e-8)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer, 3) == train(again, resumed, 3)
    assert all(one.equal(other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_clipping_leaves_the_size_of_an_update_alone(tiny_model):
    """It acts before the matrices are made orthogonal: a gradient a thousandth as large gives the same step."""
    steps = []
    for factor in (1.0, 1e-3):
        model = plain_model(tiny_model, {"type": "full"})
        weight = model.model.layers[0].mlp.up_proj.weight
        before = weight.detach().clone()
        optimizer = MuonWithAdamW(groups_of(model), betas=(0.9, 0.999), eps=1e-8)
        (model(input_ids=torch.arange(3, 40)[None], labels=torch.arange(3, 40)[None]).loss * factor).backward()
        set_learning_rate(optimizer, 1e-2)
        optimizer.step()
        steps.append(weight.detach() - before)
    assert steps[1].norm() == pytest.approx(steps[0].norm().item(), rel=0.02)


def test_an_update_is_as_large_as_adamws(tiny_model):
    model = plain_model(tiny_model, {"type": "full"})
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    train(model, MuonWithAdamW(groups_of(model), betas=(0.9, 0.999), eps=1e-8), 1, rate=1e-2)
    rms = (weight.detach() - before).square().mean().sqrt().item()
    assert 1e-2 * 0.1 < rms < 1e-2 * 0.3


def test_layers_may_learn_at_rates_of_their_own(tiny_model):
    model = plain_model(tiny_model, {"type": "full"})
    rates = dict.fromkeys(model.model.layers[0].parameters(), 0.5)
    groups = groups_of(model, rates)
    assert {(group[RATE], group[MUON]) for group in groups} == {(1.0, True), (1.0, False), (0.5, True), (0.5, False)}
    optimizer = MuonWithAdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    set_learning_rate(optimizer, 2.0)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0, 2.0}


def test_a_model_without_matrices_to_train_is_left_to_adamw(tiny_model):
    model = plain_model(tiny_model, {"type": "ia3"})
    groups = parameter_groups(model, 0.0, {}, hidden_matrices(base_of(model)))
    assert all(not group[MUON] for group in groups)
    factors = [parameter for group in groups for parameter in group["params"]]
    before = [factor.detach().clone() for factor in factors]
    train(model, MuonWithAdamW(groups, betas=(0.9, 0.999), eps=1e-8), 1)
    assert all((factor - old).abs().max() > 1e-3 for factor, old in zip(factors, before, strict=True))
