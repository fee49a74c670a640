"""An optimizer whose state is on the host: the same numbers as with it on the device, and the same checkpoints.

Here both are one memory; DeepSpeed takes another way through its optimizers all the same.
"""

from itertools import product

import pytest
from extent import IS_WHOLE
from train_cases import Case, run_cases, weights_of

pytestmark = pytest.mark.timeout(1500)  # the first test waits for all runs

ROUNDED = 2e-5
"""By how much weights of 16 bits may differ in the mean, where gradients are added up in another order."""
RUNS = [("full", 2, 2, "fp32"), ("full", 3, 2, "fp32"), ("lora", 1, 2, "bf16"), ("full", 3, 2, "bf16")]
"""Method, ZeRO stage, world size, precision."""
MOVED = [((0, 1, False), (2, 2, True)), ((2, 2, True), (0, 1, False)), ((3, 2, True), (3, 2, False))]
"""From a ZeRO stage, a world size and a place of the optimizer to others; True: on the host."""
PRECISIONS = ["fp32"]
if IS_WHOLE:
    RUNS = list(product(("full", "lora"), (1, 2, 3), (1, 2), ("fp32", "bf16")))
    PLACES = [(0, 1, False), (2, 2, False), (3, 2, False), *product((1, 2, 3), (1, 2), (True,))]
    MOVED = [(old, new) for old, new in product(PLACES, PLACES) if old != new and (old[2] or new[2])]
    PRECISIONS = ["fp32", "bf16"]
MOVES = [(*one, precision) for one, precision in product(MOVED, PRECISIONS)]
SOURCES = sorted({(old, precision) for old, _, precision in MOVES})


def run(method, stage, world_size, precision, *, offload):
    name = f"{method}-{stage}-{world_size}-{precision}-{'host' if offload else 'device'}"
    options = {"precision": precision, "offload": offload, "micro_batch_size": 1, "resume_at": 2}
    return Case(name, method, stage, world_size, **options)


def source(place, precision):
    name = f"at-{'-'.join(map(str, place))}-{precision}"
    options = {"offload": place[2], "precision": precision, "spec": {"checkpoint": {"everySteps": 2}}}
    return Case(name, "full", *place[:2], **options)


def moved(old, new, precision):
    before = source(old, precision).name
    options = {"offload": new[2], "precision": precision, "resume_at": 2, "reshard": old[:2] != new[:2]}
    return Case(f"{before}-to-{'-'.join(map(str, new))}", "full", *new[:2], resume_from=before, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("offload")


@pytest.fixture(scope="module")
def told(tiny_model, root):
    """What rank 0 told in each case."""
    first = [run(*one, offload=offload) for one, offload in product(RUNS, (False, True))]
    first += [source(*one) for one in SOURCES]
    results = {}
    for cases, world_size in product((first, [moved(*one) for one in MOVES]), (1, 2)):
        chosen = [case for case in cases if case.world_size == world_size]
        results |= run_cases(tiny_model, root, chosen) if chosen else {}
    return results


def assert_like(ours, theirs, *, exact):
    """Compare steps and weights of two runs, each a pair of them."""
    steps = [[step["loss"] for step in one[0]] for one in (ours, theirs)]
    assert steps[0] == pytest.approx(steps[1], abs=1e-5 if exact else 1e-3)
    assert ours[1].keys() == theirs[1].keys()
    gaps = [(ours[1][key].float() - theirs[1][key].float()).abs() for key in theirs[1]]
    assert max(gap.max() if exact else gap.mean() for gap in gaps) < (1e-5 if exact else ROUNDED)


@pytest.mark.parametrize("one", RUNS, ids=str)
def test_losses_and_weights_are_those_of_an_optimizer_on_the_device(told, root, one):
    there, here = (run(*one, offload=offload).name for offload in (True, False))
    assert (told[there]["offloads"], told[here]["offloads"]) == (True, False)
    ours, theirs = ((told[name]["steps"], weights_of(root / name / "whole", 4)) for name in (there, here))
    # Stage 3 adds gradients of 16 bits up in another order.
    assert_like(ours, theirs, exact=one[1] != 3 or one[3] == "fp32")


@pytest.mark.parametrize("one", RUNS, ids=str)
def test_resumed_run_is_the_same_run_bit_by_bit(told, root, one):
    name = run(*one, offload=True).name
    for field in ("loss", "grad_norm"):
        assert [step[field] for step in told[name]["resumed"]] == [step[field] for step in told[name]["steps"][2:]]
    ours, theirs = (weights_of(root / name / part, 4) for part in ("resumed", "whole"))
    assert all(ours[key].equal(theirs[key]) for key in theirs)


@pytest.mark.parametrize("one", MOVES, ids=str)
def test_a_run_goes_on_with_the_optimizer_elsewhere(told, root, one):
    case = moved(*one)
    ours = told[case.name]["resumed"], weights_of(root / case.name / "resumed", 4)
    theirs = told[case.resume_from]["steps"][2:], weights_of(root / case.resume_from / "whole", 4)
    assert_like(ours, theirs, exact=case.precision == "fp32")
