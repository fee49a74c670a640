"""Quantities, resources and what follows from them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reconcile_builders import parsed

from finetune_api.pods import Resources
from finetune_api.quantity import parse_quantity
from finetune_operator.manifests.resources import (
    GIBI,
    cpu_threads,
    memory_bytes,
    shared_memory,
    stage_resources,
    train_resources,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        (4, 4),
        ("1.5", "1.5"),
        ("700m", "0.7"),
        ("5u", "0.000005"),
        ("5n", "0.000000005"),
        ("2k", 2000),
        ("2K", 2000),
        ("3M", 3_000_000),
        ("3G", 3 * 10**9),
        ("3T", 3 * 10**12),
        ("3Ki", 3072),
        ("3Mi", 3 * 2**20),
        ("3Gi", 3 * 2**30),
        ("1.5Gi", 1.5 * 2**30),
        ("2Ti", 2**41),
        ("1Pi", 2**50),
        ("1Ei", 2**60),
    ],
)
def test_parse_quantity(text, number):
    assert parse_quantity(text) == Decimal(number)


@given(st.integers(0, 10**9), st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_every_quantity_of_the_schema_is_read(number, suffix):
    assert parse_quantity(f"{number}{suffix}") == number * parse_quantity(f"1{suffix}")


@pytest.mark.parametrize(
    ("limits", "expected"), [({}, None), ({"cpu": 1}, None), ({"memory": "3Gi"}, 3 * GIBI), ({"memory": 1000}, 1000)]
)
def test_memory_bytes(limits, expected):
    assert memory_bytes(limits) == expected


@pytest.mark.parametrize(
    ("device", "processes", "given_", "expected"),
    [
        ("cpu", 1, {}, {}),
        ("cpu", 1, {"limits": {"memory": "3Gi"}}, {"limits": {"memory": "3Gi"}}),
        ("cpu", 1, {"requests": {"cpu": "700m"}}, {"requests": {"cpu": "700m"}}),
        ("gpu", 4, {}, {"limits": {"nvidia.com/gpu": 4}}),
        ("gpu", 8, {"limits": {"memory": "1Ti"}}, {"limits": {"memory": "1Ti", "nvidia.com/gpu": 8}}),
        ("gpu", 2, {"limits": {"nvidia.com/gpu": 2}}, {"limits": {"nvidia.com/gpu": 2}}),
        ("gpu", 2, {"limits": {"amd.com/gpu": 2}}, {"limits": {"amd.com/gpu": 2}}),
        ("gpu", 1, {"limits": {"nvidia.com/mig-1g.10gb": 1}}, {"limits": {"nvidia.com/mig-1g.10gb": 1}}),
    ],
)
def test_train_resources(device, processes, given_, expected):
    spec = parsed(
        distributed={"device": device, "processesPerNode": processes},
        training={"globalBatchSize": 64},
        podTemplate={"resources": given_},
    )
    assert train_resources(spec) == expected


DEFAULTS = Resources(requests={"cpu": "500m", "memory": "1Gi"}, limits={"memory": "2Gi"})


@pytest.mark.parametrize(
    ("own", "defaults", "expected"),
    [
        ({}, Resources(), {}),
        ({}, DEFAULTS, {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
        (
            {"limits": {"memory": "512Mi"}},  # the default request of 1Gi would be refused
            DEFAULTS,
            {"requests": {"cpu": "500m"}, "limits": {"memory": "512Mi"}},
        ),
        (
            {"requests": {"memory": "8Gi"}},  # and so would the default limit of 2Gi
            DEFAULTS,
            {"requests": {"cpu": "500m", "memory": "8Gi"}},
        ),
        (
            {"requests": {"cpu": 2}, "limits": {"cpu": 2}},
            DEFAULTS,
            {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "2Gi"}},
        ),
    ],
)
def test_stage_resources(own, defaults, expected):
    assert stage_resources(parsed(podTemplate={"stageResources": own}), defaults) == expected


def test_stage_resources_of_a_gpu_job_have_no_gpu():
    assert stage_resources(parsed(distributed={"device": "gpu"}), Resources()) == {}


@pytest.mark.parametrize(
    ("resources", "processes", "threads"),
    [
        ({}, 1, None),
        ({"limits": {"memory": "1Gi"}}, 1, None),
        ({"requests": {"cpu": "700m"}}, 1, 1),
        ({"requests": {"cpu": "3500m"}}, 1, 3),
        ({"requests": {"cpu": 8}}, 4, 2),
        ({"requests": {"cpu": 8}, "limits": {"cpu": 16}}, 4, 4),
        ({"limits": {"cpu": 2}}, 8, 1),
    ],
)
def test_cpu_threads(resources, processes, threads):
    assert cpu_threads(resources, processes) == threads


@pytest.mark.parametrize(
    ("limits", "processes", "size"),
    [({}, 1, GIBI), ({}, 8, 8 * GIBI), ({"memory": "1Gi"}, 1, GIBI // 2), ({"memory": "64Gi"}, 8, 8 * GIBI)],
)
def test_shared_memory(limits, processes, size):
    assert shared_memory({"limits": limits}, processes) == str(size)
