"""A plan, for tests that only hand one on."""

from finetune_api.status import Plan

RESOLVED = Plan(
    zero_stage=0,
    world_size=2,
    micro_batch_size=4,
    gradient_accumulation_steps=1,
    activation_checkpointing=False,
    attention="sdpa",
    precision="bf16",
    total_steps=100,
    total_parameters=10,
    trainable_parameters=1,
    estimated_bytes_per_device=1000,
)
