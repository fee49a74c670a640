"""What the devices of a run can do and what a process took of its own. Nothing here waits for a device."""

import re
import resource
from dataclasses import dataclass
from typing import Self

import torch

from finetune_trainer.train.processes import Process

_PEAK_TFLOPS = {
    r"B200": 2250,
    r"GH200 .*|H200|H100 .*HBM3": 989,
    r"H200 NVL|H100 NVL": 835,
    r"H100 PCIe": 756,
    r"A100[- ].*": 312,
    r"A40": 149.7,
    r"A30": 165,
    r"A10": 125,
    r"L40S": 362,
    r"L40": 181,
    r"L4": 121,
    r"GeForce RTX 4090": 165,
}
"""Matrix products in bf16 with sums in fp32 and without sparsity, by the device's name after "NVIDIA ", from NVIDIA's
data sheets (https://www.nvidia.com/en-us/data-center/) and, for the 4090, its white paper on the Ada architecture.
"""


@dataclass(frozen=True)
class Devices:
    """The devices of a run, which are taken to be alike."""

    own: torch.device
    """That of this process."""
    peak_flops: float | None
    """Operations per second of all together, where they are known."""

    @classmethod
    def of(cls, process: Process, precision: str) -> Self:
        """Return the devices of a run."""
        name = torch.cuda.get_device_name(process.device) if process.device.type == "cuda" else "cpu"
        peak = peak_flops(name, precision)
        return cls(process.device, None if peak is None else peak * process.world_size)

    def mfu(self, flops_per_second: float) -> float | None:
        """Return the share of the peak that so many operations per second are."""
        return flops_per_second / self.peak_flops if self.peak_flops else None

    @property
    def peak_bytes(self) -> int:
        """Most memory that this process has taken so far: of tensors on a GPU, of everything on a CPU."""
        if self.own.type == "cuda":
            return torch.cuda.max_memory_allocated(self.own)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def peak_flops(name: str, precision: str) -> float | None:
    """Return the operations per second of one device; None where they are not known: in fp32, of a part (MIG)."""
    kind = name.removeprefix("NVIDIA ")
    if precision != "bf16" or "MIG" in kind:
        return None
    return next((1e12 * peak for form, peak in _PEAK_TFLOPS.items() if re.fullmatch(form, kind)), None)
