"""What the figures were measured on and with."""

from importlib.metadata import version
from typing import Any

from bench_harness.machine import describe_hardware

LIBRARIES = ("torch", "transformers", "peft", "trl", "deepspeed", "bitsandbytes")
TRAINER = ("trainer_image", "api", "benchmarks/trainer/trainer_bench")
"""What makes the figures: other commits leave them valid."""


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, kernel and the versions of every library that takes part."""
    return describe_hardware() | {name: version(name) for name in LIBRARIES}
