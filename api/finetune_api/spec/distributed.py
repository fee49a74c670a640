"""`spec.distributed`: nodes, processes and how the state is sharded over them."""

from typing import Literal

from pydantic import Field

from finetune_api.base import Record


class Distributed(Record):
    """Nodes, processes and how the state is sharded over them."""

    num_nodes: int = Field(default=1, ge=1, le=1024, description="Pods of the training stage.")
    processes_per_node: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes per pod: one per GPU, or CPU processes when device is cpu.",
    )
    device: Literal["gpu", "cpu"] = Field(default="gpu", description="gpu uses NCCL, cpu uses gloo.")
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto", description="DeepSpeed ZeRO stage (https://arxiv.org/abs/1910.02054), or auto."
    )
    offload_optimizer: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Keep the optimizer's state and the fp32 weights in the host's memory, and update the weights"
        " there (https://arxiv.org/abs/2101.06840): slower, and room on the GPU for 12 bytes per trained parameter."
        " auto does so on GPUs where nothing else fits.",
    )
