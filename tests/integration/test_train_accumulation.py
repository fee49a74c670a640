"""A step of many micro-batches in bf16: their gradients are added up in fp32, so that none is lost to rounding.

With the sum in 16 bits, the norm of such a step is 3 % too small, and more with more micro-batches.
"""

from itertools import pairwise, product

import pytest
from extent import IS_WHOLE
from train_cases import Case, run_cases, weights_of

pytestmark = pytest.mark.timeout(3600)  # the first test waits for all runs

BATCH = 256
WITHIN = 0.005
"""Gap to fp32, as a share: what rounding of single micro-batches comes to."""
PLACES = [(0, 1, False), (1, 1, False), (2, 1, False), (3, 1, False), (0, 2, False), (2, 2, True)]
"""ZeRO stage, world size, whether the optimizer is on the host."""
METHODS = ["lora"]
MOVES = [((2, 1, False), BATCH, (2, 1, False)), ((2, 1, False), 64, (0, 1, False))]
"""From a place, and micro-batches of so many rows, to another place and micro-batches of one."""
if IS_WHOLE:
    PLACES = [(0, 1, False), (0, 2, False), *product((1, 2, 3), (1, 2), (False, True))]
    METHODS = ["full", "lora"]
    MOVES = [(place, BATCH, place) for place in PLACES] + [(old, 64, new) for old, new in pairwise(PLACES)]


def run(method, precision, place, micro, *, steps=1):
    stage, world_size, offload = place
    name = f"{method}-{precision}-{'-'.join(map(str, place))}-{micro}-{steps}"
    training = {
        "globalBatchSize": BATCH,
        "maxSteps": steps,
        "warmup": 0,
        "learningRate": 1e-3,
        "precision": precision,
    }
    spec = {"training": training, "checkpoint": {"everySteps": 1}}
    options = {"offload": offload, "packing": False, "rows": BATCH + 20, "steps": steps, "spec": spec}
    return Case(name, method, stage, world_size, micro, precision, **options)


def moved(old, micro, new):
    case, source = run("lora", "bf16", new, 1, steps=2), run("lora", "bf16", old, micro, steps=2)
    case.name, case.resume_from, case.resume_at = f"{source.name}-to-{case.name}", source.name, 1
    case.reshard = old[:2] != new[:2]
    return case


RUNS = [("bf16", place, 1) for place in PLACES] + [("fp32", (0, 1, False), 64)]
SOURCES = sorted({(old, micro) for old, micro, _ in MOVES})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("accumulation")


@pytest.fixture(scope="module")
def told(tiny_model, root):
    """What rank 0 told in each case."""
    first = [run(method, *one) for method, one in product(METHODS, RUNS)]
    first += [run("lora", "bf16", *one, steps=2) for one in SOURCES]
    results = {}
    for cases, world_size in product((first, [moved(*one) for one in MOVES]), (1, 2)):
        chosen = [case for case in cases if case.world_size == world_size]
        results |= run_cases(tiny_model, root, chosen) if chosen else {}
    return results


def assert_close(ours, theirs):
    assert [step["step"] for step in ours] == [step["step"] for step in theirs]
    for field in ("loss", "grad_norm"):
        assert [step[field] for step in ours] == pytest.approx([step[field] for step in theirs], rel=WITHIN)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_many_micro_batches_have_the_gradient_of_fp32(told, method, place):
    exact = told[run(method, "fp32", (0, 1, False), 64).name]["steps"]
    assert_close(told[run(method, "bf16", place, 1).name]["steps"], exact)


@pytest.mark.parametrize("one", MOVES, ids=str)
def test_a_checkpoint_is_resumed_with_other_micro_batches(told, root, one):
    """And at another place, from whole tensors: as after an attempt that ran out of memory."""
    case = moved(*one)
    assert_close(told[case.name]["resumed"], told[case.resume_from]["steps"][1:])
    ours, theirs = (weights_of(root / name, 2) for name in (f"{case.name}/resumed", f"{case.resume_from}/whole"))
    assert ours.keys() == theirs.keys()
    assert max((ours[key].float() - theirs[key].float()).abs().mean() for key in theirs) < 5e-5
