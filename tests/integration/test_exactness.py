"""The same numbers however a step is divided, wherever a run is interrupted, and on whatever processes it goes on.

A few cells of each grid run with all tests; `EXACT=whole` runs all of them and prints how many and the largest gap.
"""

from itertools import product

import pytest
from extent import IS_WHOLE
from plain_training import reference
from train_cases import Case, run_cases, weights_of

pytestmark = pytest.mark.timeout(3600)  # the first test waits for all runs

TOLERANCE = 1e-5
STEPS = 4

CELLS = [(2, 4, 1, False)]
"""World size, micro-batch, ZeRO stage, packing."""
INTERRUPTED = [("full", 2, 2, 3)]
"""Method, ZeRO stage, world size, step. The grid of the methods interrupts each once already."""
MOVED = [((0, 1), (2, 2)), ((2, 2), (0, 1)), ((3, 2), (2, 1))]
"""From a ZeRO stage and world size to another."""
MOVED_BF16 = [("full", (0, 1), (2, 2)), ("lora", (2, 2), (0, 1))]
METHODS = ["full"]
ROUNDED = {"full": 2e-5, "lora": 5e-5}
"""By how much weights of 16 bits may differ in the mean. Under ZeRO stage 3 an adapter is added in another order, so
that its gradients are rounded otherwise. To lose the weights of 32 bits would be about 8e-5, by arithmetic.
"""
if IS_WHOLE:
    CELLS = list(product((1, 2, 4), (1, 2, 4), (0, 1, 2, 3), (True, False)))
    INTERRUPTED = list(product(("full", "lora"), (0, 1, 2, 3), (1, 2), (1, 2, 3)))
    PLACES = ((0, 1), (2, 1), (1, 2), (2, 2), (3, 2), (3, 4))
    MOVED = [(old, new) for old, new in product(PLACES, PLACES) if old != new]
    METHODS = ["full", "lora"]
    MOVED_BF16 = [(method, old, new) for method in METHODS for old, new in MOVED]
GAPS = []


def cell(world_size, micro, stage, packing):
    name = f"cell-{world_size}-{micro}-{stage}-{'packed' if packing else 'rows'}"
    return Case(name, "full", stage, world_size, micro_batch_size=micro, packing=packing, steps=STEPS)


def interrupted(method, stage, world_size, step):
    return Case(f"cut-{method}-{stage}-{world_size}-{step}", method, stage, world_size, steps=STEPS, resume_at=step)


def place(method, stage, world_size, precision):
    name, commits = f"at-{method}-{stage}-{world_size}-{precision}", {"checkpoint": {"everySteps": 2}}
    return Case(name, method, stage, world_size, precision=precision, steps=STEPS, spec=commits)


def moved(method, old, new, precision):
    name = f"moved-{method}-{old[0]}-{old[1]}-to-{new[0]}-{new[1]}-{precision}"
    source = place(method, *old, precision).name
    return Case(name, method, *new, precision=precision, steps=STEPS, resume_at=2, resume_from=source)


MOVES = [(method, old, new, "fp32") for method in METHODS for old, new in MOVED]
MOVES += [(*one, "bf16") for one in MOVED_BF16]
SOURCES = sorted({(method, *old, precision) for method, old, _, precision in MOVES})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("exact")


@pytest.fixture(scope="module")
def told(tiny_model, root):
    """What rank 0 told in each case."""
    first = [cell(*one) for one in CELLS]
    first += [interrupted(*one) for one in INTERRUPTED]
    first += [place(*one) for one in SOURCES]
    then = [moved(*one) for one in MOVES]
    results = {}
    for cases, world_size in product((first, then), (1, 2, 4)):
        chosen = [case for case in cases if case.world_size == world_size]
        results |= run_cases(tiny_model, root, chosen) if chosen else {}
    return results


@pytest.fixture(scope="module")
def plain(tiny_model, root, told):
    """Return the series of plain PyTorch in one process."""
    cache = root / "work-2" / "prepared" / "cache"
    series = {method: reference(tiny_model, cache, Case("plain", method, steps=STEPS)) for method in METHODS}
    series["rows"] = reference(tiny_model, cache, Case("plain", "full", packing=False, steps=STEPS))
    return series


def assert_exact(steps, series, since=0):
    for field, wanted in (("loss", series.losses), ("grad_norm", series.grad_norms)):
        got = [step[field] for step in steps]
        gaps = [abs(one - other) for one, other in zip(got, wanted[since:], strict=True)]
        GAPS.extend(gaps)
        assert max(gaps) <= TOLERANCE, (field, got, wanted[since:])


@pytest.mark.parametrize("one", CELLS, ids=str)
def test_a_step_is_the_same_however_it_is_divided(told, plain, one):
    case = cell(*one)
    assert_exact(told[case.name]["steps"], plain["full" if case.packing else "rows"])


@pytest.mark.parametrize("one", INTERRUPTED, ids=str)
def test_a_run_interrupted_at_any_step_is_the_same_run_bit_by_bit(told, root, one):
    case, step = interrupted(*one), one[-1]
    whole, resumed = told[case.name]["steps"][step:], told[case.name]["resumed"]
    assert [(now["loss"], now["grad_norm"]) for now in resumed] == [(now["loss"], now["grad_norm"]) for now in whole]
    ours, theirs = (weights_of(root / case.name / part, STEPS) for part in ("resumed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in theirs)
    GAPS.append(0.0)


@pytest.mark.parametrize("one", MOVES, ids=str)
def test_a_run_goes_on_with_other_processes_and_another_stage(told, plain, root, one):
    case = moved(*one)
    ours, theirs = (
        weights_of(root / case.name / "resumed", STEPS),
        weights_of(root / case.resume_from / "whole", STEPS),
    )
    assert ours.keys() == theirs.keys()
    gaps = {key: (ours[key].float() - theirs[key].float()).abs() for key in theirs}
    if case.precision == "fp32":
        assert_exact(told[case.name]["resumed"], plain[case.method], since=2)
        assert all(gap.max() < 1e-4 for gap in gaps.values())
    else:  # how a step is divided shows in the rounding of its gradients
        losses, wanted = (
            [step["loss"] for step in told[name][part]]
            for name, part in ((case.name, "resumed"), (case.resume_from, "steps"))
        )
        assert losses == pytest.approx(wanted[2:], abs=1e-3)
        assert max(gap.mean() for gap in gaps.values()) < ROUNDED[case.method]


def test_the_largest_gap_is_told(told, capsys):
    cells = len(CELLS) + len(INTERRUPTED) + len(MOVES)
    with capsys.disabled():
        print(f"\nexactness: {cells} cells, largest gap {max(GAPS, default=0.0):.2g}")
