"""What DeepSpeed does to an optimizer as the engine starts, and what a paged one is given as its state is loaded."""

import sys
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit, PagedAdamW32bit
from plans import RESOLVED
from torch import nn

from finetune_trainer.train.engine import start_engine
from finetune_trainer.train.optimizers import page

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


@pytest.fixture
def deepspeed(monkeypatch):
    """Stand in for DeepSpeed with what it does at stage 0 in bf16: a step without gradients, for Adam's state."""

    def initialize(*, optimizer, **_):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        return (SimpleNamespace(optimizer=optimizer),)

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(initialize=initialize))


def counting(kind, module):
    """Return an optimizer, and the shapes of the states that it asked memory for."""
    optimizer, shapes = kind(module.parameters(), lr=1e-2), []
    given = optimizer.get_state_buffer

    def get_state_buffer(parameter, dtype=torch.float32):
        shapes.append(parameter.shape)
        return given(parameter, dtype=dtype)

    optimizer.get_state_buffer = get_state_buffer
    return optimizer, shapes


def step_of(module, optimizer):
    module(torch.ones(4, 64)).sum().backward()
    optimizer.step()


def test_no_state_is_made_before_the_first_step(deepspeed):
    """Memory that CUDA manages is never given back: a state that is thrown away would be held beside the next."""
    module = nn.Linear(64, 64, bias=False)
    optimizer, shapes = counting(PagedAdamW32bit, module)
    engine = start_engine(module, RESOLVED, optimizer, {})
    assert (dict(optimizer.state), shapes) == ({}, [])
    step_of(module, engine.optimizer)
    assert len(shapes) == 2
    assert optimizer.state[module.weight]["step"] == 1


def test_the_first_step_is_the_first(deepspeed):
    started, plain = nn.Linear(64, 64), nn.Linear(64, 64)
    plain.load_state_dict(started.state_dict())
    optimizer = torch.optim.AdamW(started.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    start_engine(started, RESOLVED, optimizer, {})
    step_of(started, optimizer)
    step_of(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1, fused=True))
    assert all(one.equal(other) for one, other in zip(started.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("kind", [PagedAdamW32bit, PagedAdamW8bit])
def test_a_loaded_state_is_paged_anew(kind):
    """It was read into memory of the device, which CUDA does not move to the host."""
    module = nn.Linear(64, 128, bias=False)  # in 8 bits, smaller ones are not
    first, _ = counting(kind, module)
    step_of(module, first)
    again, shapes = counting(kind, module)
    again.load_state_dict(first.state_dict())
    read = {name: again.state[module.weight][name] for name in ("state1", "state2")}
    page(again)
    assert shapes == [module.weight.shape] * 2
    for name, values in read.items():
        state = again.state[module.weight][name]
        assert state is not values
        assert state.dtype == values.dtype == (torch.float32 if kind is PagedAdamW32bit else torch.uint8)
        assert state.equal(values)
        assert state.any()


@pytest.fixture
def emptied(monkeypatch):
    """Return a list that grows each time that torch gives its free memory back to the device."""
    times = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: times.append("emptied"))
    return times


def test_memory_of_what_was_paged_is_given_back(emptied):
    """Managed memory is none of torch's: what torch keeps for itself would be taken twice."""
    module = nn.Linear(64, 128)
    optimizer = PagedAdamW32bit(module.parameters(), lr=1e-2)
    page(optimizer)
    assert emptied == []
    step_of(module, optimizer)
    page(optimizer)
    assert emptied == ["emptied"]


@pytest.mark.parametrize("kind", [AdamW8bit, torch.optim.AdamW])
def test_the_state_of_others_is_left_where_it_is(kind):
    module = nn.Linear(64, 128, bias=False)
    optimizer = kind(module.parameters(), lr=1e-2)
    step_of(module, optimizer)
    before = dict(optimizer.state[module.weight])
    page(optimizer)
    after = optimizer.state[module.weight]
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())
