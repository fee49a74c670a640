"""The tables of what methods take are the planner's: a few lines of them are made anew."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def costs():
    sys.path.insert(0, str(ROOT / "dev"))
    import generate_costs

    yield generate_costs
    sys.path.remove(str(ROOT / "dev"))


@pytest.mark.parametrize(
    ("method", "size"), [("`full`", "1B"), ("`lora`, rank 16", "8B"), ("`qlora`, 4 bits", "70B")]
)
def test_the_tables_of_costs_are_fresh(costs, method, size):
    page = (ROOT / "docs" / "methods.md").read_text()
    assert costs.line(method, size) in page.splitlines(), "run `make costs`"


def test_every_method_is_there(costs):
    from finetune_api.spec.method import MethodType

    assert {method["type"] for method in costs.METHODS.values()} == set(MethodType.__args__)
