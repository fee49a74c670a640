"""Where the state of the optimizer stands after a checkpoint was loaded. The meta device stands in for a GPU."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from finetune_trainer.train import state
from finetune_trainer.train.reshard import ENGINE, UNIVERSAL, load_whole

GPU = torch.device("meta")


def write_universal(directory, shapes):
    """Write the universal form of parameters that all are at step 3."""
    for name, shape in shapes.items():
        folder = directory / ENGINE / UNIVERSAL / "zero" / name
        folder.mkdir(parents=True)
        for part in ("fp32", "exp_avg", "exp_avg_sq"):
            torch.save({"param": torch.ones(shape)}, folder / f"{part}.pt")
        torch.save(torch.tensor(3, dtype=torch.int64), folder / "step.pt")


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_the_whole_state_of_stage_0_stands_where_the_weights_do(tmp_path, device):
    """The fused kernel of AdamW wants all of it on one device, the step among it."""
    module = nn.Linear(3, 2, device=device)
    optimizer = torch.optim.AdamW(module.parameters(), fused=device.type == "cpu")
    write_universal(tmp_path, {"weight": (2, 3), "bias": (2,)})
    load_whole(module, optimizer, tmp_path)
    states = list(optimizer.state.values())
    assert len(states) == 2
    assert {(value.device.type, value.dtype) for one in states for value in one.values()} == {
        (device.type, torch.float32)
    }


class Loaded:
    """An engine that reads as DeepSpeed's loader of the universal form does: one step on the host for all groups."""

    def __init__(self, devices):
        step = torch.tensor(3, dtype=torch.int64)
        parts = [torch.ones(4, device=device) for device in devices]
        states = {number: {"step": step, "exp_avg": part, "exp_avg_sq": part} for number, part in enumerate(parts)}
        self.optimizer = SimpleNamespace(state=states)
        self._config = SimpleNamespace(load_universal_checkpoint=False)

    def load_checkpoint(self, directory, *, tag, load_module_strict):
        return f"{directory}/{tag}", {}


@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=str)
def test_the_step_of_a_divided_state_stands_beside_the_moments(tmp_path, monkeypatch, device):
    """On the GPU, or on the host where the optimizer is offloaded; and each group counts its own."""
    monkeypatch.setattr(state, "trusted", nullcontext)
    engine = Loaded([device, device])
    state._load_engine(engine, SimpleNamespace(saves_frozen=True), tmp_path, resharded=True)
    steps = [one["step"] for one in engine.optimizer.state.values()]
    assert [(step.device.type, step.dtype) for step in steps] == [(device.type, torch.float32)] * 2
    assert steps[0] is not steps[1]
    if device.type == "cpu":
        steps[0] += 1
        assert steps[1] == 3


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_paged_optimizer_is_paged_when_its_state_is_loaded(tmp_path, monkeypatch, is_wrapped):
    monkeypatch.setattr(state, "trusted", nullcontext)
    weight, moment, paged = torch.ones(4), torch.full((4,), 2.0), torch.zeros(4)
    optimizer = SimpleNamespace(
        is_paged=True, state={weight: {"state1": moment}}, get_state_buffer=lambda parameter, dtype: paged
    )
    engine = Loaded([])
    engine.optimizer = SimpleNamespace(optimizer=optimizer) if is_wrapped else optimizer
    state._load_engine(engine, SimpleNamespace(saves_frozen=True), tmp_path, resharded=False)
    assert optimizer.state[weight]["state1"] is paged
    assert paged.equal(moment)
