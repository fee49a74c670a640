"""The LoRA of those who take it from peft themselves: the same as ours."""

from peft import LoraConfig

from trainer_bench.task import ALPHA, RANK, Task


def adapter_of(task: Task) -> LoraConfig | None:
    """Return the adapter that a method trains; None for a method that trains the weights."""
    if task.method == "full":
        return None
    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
