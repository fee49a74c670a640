"""Optimizers beside AdamW at ZeRO stages that they have: they learn, and a resumed run is the same run."""

import pytest
from extent import IS_WHOLE
from train_cases import Case, run_cases, weights_of

pytestmark = pytest.mark.timeout(1500)  # the first test waits for all runs

NAMES = ("adamw", "adamw8bit", "pagedAdamw8bit", "pagedAdamw32bit")
STAGES = {"adamw": (2,), "adamw8bit": (0, 1, 2, 3), "pagedAdamw8bit": (2,), "pagedAdamw32bit": (0, 2)}
PRECISIONS = ("fp32", "bf16")
ADAMW = [(name, stage, precision) for name in NAMES for stage in STAGES[name] for precision in PRECISIONS]
if not IS_WHOLE:
    ADAMW = [("adamw", 2, "fp32"), ("adamw", 2, "bf16"), ("adamw8bit", 0, "fp32"), ("adamw8bit", 3, "bf16")]
    ADAMW += [("pagedAdamw8bit", 2, "bf16"), ("pagedAdamw32bit", 0, "fp32")]
MUON = PRECISIONS if IS_WHOLE else ("bf16",)
RUNS = [*ADAMW, *(("muon", 0, precision) for precision in MUON)]


def case(name, stage, precision):
    training = {"maxSteps": 6, "globalBatchSize": 6, "learningRate": 5e-3, "warmup": 2, "precision": precision}
    spec = {"training": {**training, "optimizer": {"type": name, "weightDecay": 0.01, "maxGradNorm": 0.5}}}
    return Case(f"{name}-{stage}-{precision}", "full", stage, 2, precision=precision, steps=6, resume_at=3, spec=spec)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("optimizers")


@pytest.fixture(scope="module")
def told(tiny_model, root):
    """What rank 0 told in each case."""
    return run_cases(tiny_model, root, [case(*run) for run in RUNS])


@pytest.mark.parametrize(("name", "stage", "precision"), ADAMW)
def test_it_learns_as_adamw_does(told, name, stage, precision):
    losses = [step["loss"] for step in told[f"{name}-{stage}-{precision}"]["steps"]]
    reference = [step["loss"] for step in told[f"adamw-2-{precision}"]["steps"]]
    assert losses == pytest.approx(reference, abs=0.15)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("precision", MUON)
def test_muon_learns_at_adamws_rate(told, precision):
    losses = [step["loss"] for step in told[f"muon-0-{precision}"]["steps"]]
    assert losses[-1] < losses[0] - 0.3
    # The first step comes before any update.
    assert losses[0] == pytest.approx(told[f"adamw-2-{precision}"]["steps"][0]["loss"], abs=1e-2)
    assert losses[-1] != pytest.approx(told[f"adamw-2-{precision}"]["steps"][-1]["loss"], abs=1e-4)


@pytest.mark.parametrize(("name", "stage", "precision"), RUNS)
def test_resumed_run_is_the_same_run_bit_by_bit(told, root, name, stage, precision):
    run = f"{name}-{stage}-{precision}"
    for field in ("loss", "grad_norm"):
        assert [step[field] for step in told[run]["resumed"]] == [step[field] for step in told[run]["steps"][3:]]
    ours, theirs = (weights_of(root / run / part, 6) for part in ("resumed", "whole"))
    assert all(ours[key].equal(theirs[key]) for key in theirs)
